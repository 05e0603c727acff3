"""What a report can do where scripts run: sort and filter its tables, copy its commands.

The page is whole without it: the script makes its own controls.
"""

from __future__ import annotations

SCRIPT = """
"use strict";
const make = (tag, text, on) => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (tag === "button") { made.type = "button"; made.addEventListener("click", on); }
  return made;
};
const leading = text => parseFloat(text.replace(/^[<\\s]+/, ""));
const compare = (a, b) => {
  const x = leading(a), y = leading(b);
  if (!isNaN(x) && !isNaN(y) && x !== y) return x - y;
  return a.localeCompare(b, undefined, {numeric: true});
};
const nothing = text => text === "" || text === "-";
function sort(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
  const rows = [...body.rows], text = row => (row.cells[column] || {textContent: ""}).textContent;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  rows.sort((a, b) => nothing(text(a)) - nothing(text(b)) ||
    (down ? -1 : 1) * compare(text(a), text(b)));
  body.append(...rows);
}
for (const table of document.querySelectorAll(".wide > table")) {
  const n = table.tBodies[0].rows.length;
  if (n < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = make("button", head.textContent, () => sort(table, head, column));
    button.title = "sort by this column";
    head.replaceChildren(button);
  });
  if (n < 8) continue;
  const field = make("input", "");
  field.type = "search";
  field.placeholder = "filter " + n + " rows";
  field.setAttribute("aria-label", "filter the rows of this table");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(" ");
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
  table.parentElement.before(field);
}
async function copy(source, button) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  button.textContent = "copied";
}
for (const source of document.querySelectorAll("pre.command")) {
  const button = make("button", "copy", () => copy(source, button));
  const line = document.createElement("div");
  line.className = "line";
  source.replaceWith(line);
  line.append(source, button);
}
"""
STYLE = """
th > button { all: unset; cursor: pointer; }
th > button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] > button::after { content: " \\2191"; }
th[aria-sort=descending] > button::after { content: " \\2193"; }
input[type=search] { font: inherit; font-size: .875rem; padding: .25rem .5rem; margin: .5rem 0 0;
  color: var(--ink); background: var(--paper); border: 1px solid var(--soft); border-radius: 4px; }
.line { display: flex; gap: .5rem; align-items: start; }
.line > pre { flex: 1; min-width: 0; }
.line > button { font: inherit; font-size: .8rem; color: var(--ink); background: var(--paper);
  border: 1px solid var(--soft); border-radius: 4px; padding: .1rem .5rem; margin: .3rem 0; }
"""
