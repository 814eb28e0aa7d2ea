/* The trend report: sorting of the table of areas, and the numbers unfolded for printing. All else is in the page. */
(() => {
  "use strict";

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (head.classList.contains("barhead")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // Numbers first from the largest, names first from A; again turns it round.
        const number = head.classList.contains("num");
        const before = head.getAttribute("aria-sort");
        const up = before ? before === "descending" : !number;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.cells[column];
          return number ? parseFloat(cell.dataset.value) : cell.textContent;
        };
        const missing = (x) => typeof x === "number" && Number.isNaN(x);
        const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
        body.append(...[...body.rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (missing(x) || missing(y)) return missing(x) - missing(y);
          return up ? order(x, y) : order(y, x);
        }));
      });
    });
  }

  const folded = [...document.querySelectorAll("details")];
  window.addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
  window.geoclassTrend = true;
})();
