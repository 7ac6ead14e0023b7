"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// The table is sorted by any of its columns: what is not known comes last, whichever the order.
const table = document.querySelector("table.rows");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const asReported = [...body.rows];

function sortBy(head) {
  const order = nextOrder(head);
  for (const each of heads) each.removeAttribute("aria-sort");
  if (order) head.setAttribute("aria-sort", order);
  table.classList.toggle("sorted", Boolean(order));
  const compare = comparison(head, order === "descending" ? -1 : 1);
  body.append(...(order ? [...asReported].sort(compare) : asReported));
}

function nextOrder(head) {
  const [first, now] = [head.dataset.first, head.getAttribute("aria-sort")];
  if (!now) return first;
  return now === first ? (first === "ascending" ? "descending" : "ascending") : null;
}

function comparison(head, sign) {
  const at = heads.indexOf(head);
  const number = head.dataset.kind === "number";
  const unknown = (cell) => (number ? cell.dataset.value === undefined : cell.textContent === "–");
  const compare = number
    ? (one, other) => one.dataset.value - other.dataset.value
    : (one, other) => one.textContent.localeCompare(other.textContent, "en", { numeric: true });
  return ({ cells: ones }, { cells: others }) => {
    const [one, other] = [ones[at], others[at]];
    if (unknown(one) || unknown(other)) return unknown(one) - unknown(other);
    return sign * compare(one, other);
  };
}

for (const head of heads) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sortBy(head));
  head.append(button);
}
for (const each of all(".scripted")) each.hidden = false;

// On a wide screen the first three columns, which say what a row is, stay in sight while the others scroll.
function pin() {
  let left = 0;
  for (const [at, head] of heads.slice(0, 3).entries()) {
    table.style.setProperty(`--left-${at}`, `${left}px`);
    left += head.getBoundingClientRect().width;
  }
}

pin();
window.addEventListener("resize", pin);
document.querySelector("#more").addEventListener("change", pin);

// Marks and table rows point at each other; a mark has a tip.
const rowOf = (number) => asReported.find((row) => row.dataset.row === number);

function choose(number) {
  rowOf(number)?.classList.add("chosen");
  for (const mark of all(`.mark[data-row="${number}"]`)) {
    mark.classList.add("chosen");
    mark.ownerSVGElement.classList.add("choosing");
  }
}

function chooseNone() {
  for (const tip of all(".tip")) tip.hidden = true;
  for (const each of all(".chosen")) each.classList.remove("chosen");
  for (const each of all(".choosing")) each.classList.remove("choosing");
}

// [name, figure] of each line; the first is the heading.
function linesOf(mark) {
  if (mark.dataset.tip) return mark.dataset.tip.split("\n").map((line) => line.split("\t"));
  const cells = [...rowOf(mark.dataset.row).cells];
  const named = heads.map((head, at) => [head, cells[at]]);
  const words = named.filter(([head]) => head.dataset.kind === "text" && !head.matches(".more"));
  const title = words.map(([, cell]) => cell.firstChild.textContent.trim().replace("\n", " ")).filter((word) => word !== "ok");
  const figures = named.filter(([head, cell]) => head.dataset.kind === "number" && !head.matches(".more") && cell.textContent !== "–");
  return [[title.join(" ")], ...figures.map(([head, cell]) => [head.textContent, cell.textContent])];
}

function describe(mark) {
  const plot = mark.closest(".plot");
  const tip = plot.querySelector(".tip");
  const [title, ...lines] = linesOf(mark);
  tip.replaceChildren(piece("b", title[0]), ...lines.flatMap(([name, figure]) => [piece("span", name), piece("span", figure)]));
  tip.hidden = false;
  const room = plot.getBoundingClientRect();
  const drawn = (mark.querySelector(".all") ?? mark.querySelector(".dot")).getBoundingClientRect();
  const [left, right] = [drawn.left - room.left - tip.offsetWidth - 14, drawn.right - room.left + 14];
  const middle = drawn.top + drawn.height / 2 - room.top;
  const fits = right + tip.offsetWidth < room.width - 6;
  tip.style.left = `${clamp(fits ? right : left, 4, room.width - tip.offsetWidth - 6)}px`;
  tip.style.top = `${clamp(middle - tip.offsetHeight / 2, 4, room.height - tip.offsetHeight - 6)}px`;
}

function piece(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text ?? "";
  return made;
}

const clamp = (value, low, high) => Math.max(low, Math.min(value, high));

for (const mark of all(".mark")) {
  for (const event of ["pointerenter", "focus"]) {
    mark.addEventListener(event, () => {
      chooseNone();
      if (mark.dataset.row) choose(mark.dataset.row);
      describe(mark);
    });
  }
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, chooseNone);
}
for (const row of asReported) {
  row.addEventListener("pointerenter", () => choose(row.dataset.row));
  row.addEventListener("pointerleave", chooseNone);
}
document.addEventListener("keydown", (event) => event.key === "Escape" && chooseNone());

// The poses turn about the vertical and tilt; the same projection as in moments.py.
const [yaw, pitch] = [document.querySelector("#yaw"), document.querySelector("#pitch")];

// Across the picture, down it, and away from the viewer.
function seen([x, y, z], turned, tilted) {
  const away = -x * Math.sin(turned) + z * Math.cos(turned);
  return [
    x * Math.cos(turned) + z * Math.sin(turned),
    y * Math.cos(tilted) - away * Math.sin(tilted),
    y * Math.sin(tilted) + away * Math.cos(tilted),
  ];
}

function turn() {
  const [turned, tilted] = [yaw, pitch].map((slider) => (slider.value * Math.PI) / 180);
  for (const picture of all(".moment")) {
    const poses = JSON.parse(picture.dataset.poses);
    const middle = picture.dataset.size / 2;
    const scale = middle / picture.dataset.radius;
    for (const skeleton of all(".skeleton", picture)) {
      const points = poses[skeleton.dataset.pose]?.map((point) => seen(point, turned, tilted));
      if (points) draw(skeleton, points, scale, middle); // the 2D input stays as the camera saw it
    }
  }
}

function draw(skeleton, points, scale, middle) {
  const away = (line) => points[line.dataset.a][2] + points[line.dataset.b][2];
  const lines = [...skeleton.children].sort((one, other) => away(other) - away(one)); // what is near hides what is far
  for (const line of lines) {
    for (const [end, number] of [["a", 1], ["b", 2]]) {
      const [across, down] = points[line.dataset[end]];
      line.setAttribute(`x${number}`, (middle + scale * across).toFixed(2));
      line.setAttribute(`y${number}`, (middle + scale * down).toFixed(2));
    }
  }
  skeleton.append(...lines);
}

function turnBy(degrees, tilt) {
  yaw.value = ((Number(yaw.value) + degrees + 540) % 360) - 180;
  pitch.value = clamp(Number(pitch.value) + tilt, -90, 90);
  turn();
}

if (yaw) {
  for (const slider of [yaw, pitch]) slider.addEventListener("input", turn);
  document.querySelector("#back").addEventListener("click", () => {
    for (const slider of [yaw, pitch]) slider.value = slider.defaultValue;
    turn();
  });
  for (const picture of all(".moment")) {
    let [x, y] = [0, 0];
    picture.addEventListener("pointerdown", (event) => {
      [x, y] = [event.clientX, event.clientY];
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointermove", (event) => {
      if (!picture.hasPointerCapture(event.pointerId)) return;
      turnBy((x - event.clientX) / 2, (event.clientY - y) / 2); // what is near follows the pointer
      [x, y] = [event.clientX, event.clientY];
    });
  }
  turn();
}
