
"use strict";
(() => {
  const table = document.getElementById("rows");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const find = document.getElementById("find");
  const show = document.getElementById("show");
  const open = document.getElementById("open");
  const count = document.getElementById("count");
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const texts = new Map();
  const textOf = (row) => {
    if (!texts.has(row)) texts.set(row, plain(row.textContent));
    return texts.get(row);
  };

  const filter = () => {
    const words = plain(find.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = (!show.value || row.dataset.state === show.value)
        && words.every((word) => textOf(row).includes(word));
      row.hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} questions`;
  };

  const sort = (head) => {
    const key = head.dataset.key;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => (row.dataset[key] === "" ? null : Number(row.dataset[key]));
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null) || a.dataset.n - b.dataset.n;
      return (up ? x - y : y - x) || a.dataset.n - b.dataset.n;
    });
    body.append(...rows);
  };

  for (const head of table.querySelectorAll("th[data-key]")) {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => sort(head));
  }
  find.addEventListener("input", filter);
  show.addEventListener("change", filter);
  open.addEventListener("click", () => {
    const opening = open.textContent === "Open all";
    for (const row of rows) if (!row.hidden) row.querySelector("details").open = opening;
    open.textContent = opening ? "Close all" : "Open all";
  });
  document.getElementById("tools").hidden = false;

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    for (const part of closed) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
