// A click on the title of a column sorts the table by it: by numbers where there are some, empty cells last.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils"))
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim() || table.tBodies[0].rows.length < 3) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const text = (row) => row.cells[column].textContent.trim();
        const number = (row) => parseFloat(text(row).replace("−", "-"));
        const [filled, empty] = [[], []];
        for (const row of table.tBodies[0].rows) (text(row) ? filled : empty).push(row);
        const numeric = filled.length > 0 && filled.every((row) => !isNaN(number(row)));
        const sorted = head.getAttribute("aria-sort");
        const down = sorted ? sorted === "ascending" : numeric;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => (numeric ? number(a) - number(b) : text(a).localeCompare(text(b), "en", { numeric: true }));
        filled.sort((a, b) => (down ? order(b, a) : order(a, b)));
        table.tBodies[0].append(...filled, ...empty);
      });
    });
});
