"use strict";
// Markers and table rows point at each other.
const tip = document.querySelector(".tip");
const heads = [...document.querySelectorAll(".scroll thead th")].map((head) => head.textContent);
const rowOf = (number) => document.querySelector(`.scroll tr[data-row="${number}"]`);

function choose(number, mark) {
  const row = rowOf(number);
  if (!row) return;
  row.classList.add("chosen");
  for (const each of document.querySelectorAll(`.mark[data-row="${number}"]`)) {
    each.classList.add("chosen");
    each.ownerSVGElement.classList.add("choosing");
  }
  if (mark) describe(row, mark);
}

function describe(row, mark) {
  const cells = [...row.cells];
  const name = cells[0].firstChild.textContent.trim().replace("\n", " ");
  const lines = heads.slice(3).map((head, index) => `${head.padEnd(16)}${cells[index + 3].textContent.padStart(7)}`);
  tip.textContent = `${name} ${cells[1].textContent}\n${lines.join("\n")}`;
  tip.style.fontFamily = "ui-monospace, monospace";
  tip.hidden = false;
  const plot = tip.parentElement.getBoundingClientRect();
  const at = mark.querySelector(".dot").getBoundingClientRect();
  const left = at.left - plot.left + at.width / 2;
  const before = left > plot.width / 2;
  tip.style.left = before ? "" : `${left + 18}px`;
  tip.style.right = before ? `${plot.width - left + 18}px` : "";
  tip.style.top = `${Math.max(4, Math.min(at.top - plot.top - tip.offsetHeight / 2, plot.height - tip.offsetHeight - 4))}px`;
}

function chooseNone() {
  tip.hidden = true;
  for (const each of document.querySelectorAll(".chosen")) each.classList.remove("chosen");
  for (const each of document.querySelectorAll(".choosing")) each.classList.remove("choosing");
}

for (const mark of document.querySelectorAll(".mark")) {
  mark.querySelector("title")?.remove(); // only for pages without scripts: two tips would show
  for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => choose(mark.dataset.row, mark));
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, chooseNone);
}
for (const row of document.querySelectorAll(".scroll tbody tr")) {
  row.addEventListener("pointerenter", () => choose(row.dataset.row));
  row.addEventListener("pointerleave", chooseNone);
}

// The poses turn about the vertical; the same projection as in moments.py.
const slider = document.querySelector("#yaw");
const pitch = (12 * Math.PI) / 180;

function turn(yaw) {
  const angle = (yaw * Math.PI) / 180;
  for (const picture of document.querySelectorAll(".moment")) {
    const poses = JSON.parse(picture.dataset.poses);
    const scale = picture.dataset.size / 2 / picture.dataset.radius;
    const middle = picture.dataset.size / 2;
    const seen = ([x, y, z]) => {
      const away = -x * Math.sin(angle) + z * Math.cos(angle);
      const across = x * Math.cos(angle) + z * Math.sin(angle);
      return [middle + scale * across, middle + scale * (y * Math.cos(pitch) - away * Math.sin(pitch))];
    };
    for (const skeleton of picture.querySelectorAll(".skeleton")) {
      const points = poses[skeleton.dataset.pose]?.map(seen);
      if (!points) continue; // the 2D input stays as the camera saw it
      for (const line of skeleton.children) {
        const [a, b] = [points[line.dataset.a], points[line.dataset.b]];
        line.setAttribute("x1", a[0]);
        line.setAttribute("y1", a[1]);
        line.setAttribute("x2", b[0]);
        line.setAttribute("y2", b[1]);
      }
    }
  }
}

if (slider) {
  slider.addEventListener("input", () => turn(Number(slider.value)));
  for (const picture of document.querySelectorAll(".moment")) {
    picture.addEventListener("pointermove", (event) => {
      if (!(event.buttons & 1)) return;
      slider.value = ((Number(slider.value) + event.movementX / 2 + 540) % 360) - 180;
      turn(Number(slider.value));
    });
  }
}
