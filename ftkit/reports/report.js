"use strict";

// A number of the confusion matrix opens the pictures of its pair of classes.
const pair = document.getElementById("pair");
document.addEventListener("click", (event) => {
  const opener = event.target.closest("a[data-pair]");
  if (!opener || !pair || !pair.showModal) return;
  event.preventDefault();
  const figures = document.querySelectorAll(`main .gallery > figure[data-pair="${opener.dataset.pair}"]`);
  const unique = [...figures].filter((figure) => !pair.contains(figure));
  pair.querySelector("h3").textContent = opener.title;
  const all = Number(opener.querySelector("data").value);
  const shown = unique.length === all ? "" : `${unique.length} of ${all} are in this report.`;
  pair.querySelector("p").textContent = shown;
  pair.querySelector(".gallery").replaceChildren(...unique.map((figure) => figure.cloneNode(true)));
  pair.showModal();
});
if (pair) {
  pair.querySelector(".close").addEventListener("click", () => pair.close());
  pair.addEventListener("click", (event) => { if (event.target === pair) pair.close(); });
}

// A heading of a table sorts its rows: numbers by value, names by text.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    if (head.querySelector(".unseen")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sort(table, head, column));
  });
}

function sort(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.children[column];
    const data = cell.querySelector("data");
    return data ? Number(data.value) : cell.textContent;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)));
  body.append(...(down ? rows.reverse() : rows));
}

// Buttons that copy a command.
for (const button of document.querySelectorAll("button.copy")) {
  if (!navigator.clipboard) { button.hidden = true; continue; }
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// The list of sections marks the one that is read.
const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) { link.classList.remove("here"); link.removeAttribute("aria-current"); }
    const link = links.get(entry.target.id);
    link.classList.add("here");
    link.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -75% 0px" });
for (const id of links.keys()) seen.observe(document.getElementById(id));
