// Tables that a click on a heading sorts: numbers from the largest, texts from A; what is not known goes last.
function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("button.sort").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = Number(button.dataset.column);
      const numeric = head.classList.contains("num");
      const was = head.getAttribute("aria-sort");
      const rising = was ? was === "descending" : !numeric;
      table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => (numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent);
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (numeric && (Number.isNaN(x) || Number.isNaN(y))) return Number.isNaN(x) - Number.isNaN(y);
        return (numeric ? x - y : x.localeCompare(y)) * (rising ? 1 : -1);
      });
      body.append(...rows);
    });
  });
}

// Of many single tools only the best of each metric are shown until all are wished for.
function singles(table, box) {
  const rows = [...table.querySelectorAll('tr[data-single="0"]')];
  const show = () => rows.forEach((row) => (row.hidden = !box.checked));
  box.parentElement.hidden = rows.length === 0;
  box.addEventListener("change", show);
  show();
}
