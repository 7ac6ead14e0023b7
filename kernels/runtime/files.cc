#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>
#include <utility>

#include "sha256.h"

namespace pstmo_edge {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPiece = 1u << 16;

Error unreadable(std::string what) { return {PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE, std::move(what)}; }

// strerror keeps its text where another thread may change it; these are the reasons that happen.
const char* reason(int number) {
  switch (number) {
    case ENOENT:
      return "it does not exist; copy the whole folder or build it again";
    case EACCES:
    case EPERM:
      return "permission denied; check its permissions";
    case ELOOP:
      return "it is a link; copy the file itself or build it again";
    case ENOTDIR:
      return "it is no folder; give the folder that build wrote";
    case EMFILE:
    case ENFILE:
      return "too many files are open; close some";
    case EIO:
      return "the disk failed";
    default:
      return "the system refuses";
  }
}

class OpenFile {
 public:
  OpenFile(int folder, const char* name)
      // Not blocking: a pipe of that name would wait for its writer for ever.
      : descriptor_(::openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  // Its size; an error where it could not be opened or is no regular file.
  Result<uint64_t> size(const std::string& name) const {
    struct stat status;
    if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0)
      return unreadable("cannot read " + name + ": " + reason(errno));
    if (!S_ISREG(status.st_mode))
      return unreadable(name + " is no regular file; copy the whole folder or build it again");
    return static_cast<uint64_t>(status.st_size);
  }

  // Bytes read into `to`, fewer than `size` only at the end of the file or where reading fails.
  size_t read(uint8_t* to, size_t size) const {
    size_t done = 0;
    while (done < size) {
      const ssize_t got = ::read(descriptor_, to + done, size - done);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  int descriptor_;
};

}  // namespace

Bytes::Bytes(size_t size) : size_(size) {
  const size_t rounded = (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded)));
  if (data_ == nullptr) throw std::bad_alloc();
}

Result<Folder> Folder::open(const char* path) {
  const int descriptor = ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    if (errno == ENOENT) return unreadable("no such folder; make one with pstmo-edge build --backend native");
    return unreadable(std::string("cannot open the folder: ") + reason(errno));
  }
  return Folder(descriptor);
}

Folder::~Folder() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<Bytes> Folder::read(const std::string& name, size_t limit) const {
  const OpenFile file(descriptor_, name.c_str());
  const Result<uint64_t> size = file.size(name);
  if (!size) return size.error();
  if (size.value() > limit) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, name + " has " + std::to_string(size.value()) +
                                                       " bytes and at most " + std::to_string(limit) +
                                                       " are allowed; build it again"};
  }
  Bytes bytes(static_cast<size_t>(size.value()));
  if (file.read(bytes.data(), bytes.size()) != bytes.size()) return unreadable("cannot read " + name + " to its end");
  return bytes;
}

Result<std::string> Folder::digest(const std::string& name, uint64_t size) const {
  const OpenFile file(descriptor_, name.c_str());
  const Result<uint64_t> found = file.size(name);
  if (!found) return found.error();
  if (found.value() != size) {
    return Error{PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, name + " has " + std::to_string(found.value()) +
                                                       " bytes and the manifest says " + std::to_string(size) +
                                                       "; build it again"};
  }
  Sha256 digest;
  std::array<uint8_t, kPiece> piece;
  for (uint64_t left = size; left > 0;) {  // a file that grows meanwhile is not followed
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(left, kPiece));
    if (file.read(piece.data(), wanted) != wanted) return unreadable("cannot read " + name + " to its end");
    digest.update(piece.data(), wanted);
    left -= wanted;
  }
  return digest.hex();
}

}  // namespace pstmo_edge
