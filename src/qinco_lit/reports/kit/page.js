"use strict";
// Sorting and filtering of tables. The state is in the address (#t1=3&t2=-5&t1.words=beam): column 3 rising, 5 falling.
(() => {
  const collator = new Intl.Collator("en", { numeric: true });

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  };

  // numbers, then texts, then empty cells, whichever way
  const compare = (a, b, sign) => {
    const rank = (value) => (value === "" ? 2 : typeof value === "string" ? 1 : 0);
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    return rank(a) === 0 ? sign * (a - b) : rank(a) === 1 ? sign * collator.compare(a, b) : 0;
  };

  const sort = (table, order) => {
    const [sign, column] = [Math.sign(order), Math.abs(order) - 1];
    const rows = order === 0 ? table.rowsAsGiven : [...table.rowsAsGiven].sort((a, b) => compare(key(a, column), key(b, column), sign));
    table.tBodies[0].append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      if (order !== 0 && place === column) cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  };

  const filter = (table, text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.rowsAsGiven) {
      const content = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => content.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    if (table.box) table.box.parentNode.querySelector("output").textContent = words.length ? `${shown} of ${table.rowsAsGiven.length} rows` : "";
  };

  const state = () => new URLSearchParams(location.hash.slice(1));

  const remember = (name, value) => {
    const params = state();
    if (value) params.set(name, value);
    else params.delete(name);
    history.replaceState(null, "", `#${params}`);
  };

  const tables = [...document.querySelectorAll("table[data-name]")];
  const apply = () => {
    const params = state();
    for (const table of tables) {
      const order = Number.parseInt(params.get(table.dataset.name) ?? "0", 10);
      sort(table, Math.abs(order) <= table.tHead.rows[0].cells.length ? order : 0);
      const words = params.get(`${table.dataset.name}.words`) ?? "";
      if (table.box && table.box.value !== words) table.box.value = words;
      filter(table, words);
    }
  };

  for (const table of tables) {
    const name = table.dataset.name;
    table.rowsAsGiven = [...table.tBodies[0].rows];
    table.box = document.querySelector(`input[data-for="${name}"]`);
    table.box?.addEventListener("input", () => {
      remember(`${name}.words`, table.box.value.trim());
      filter(table, table.box.value);
    });
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      cell.querySelector("button").addEventListener("click", () => {
        // rising, falling, as given
        const order = { ascending: -(place + 1), descending: 0 }[cell.getAttribute("aria-sort")] ?? place + 1;
        remember(name, order);
        sort(table, order);
      });
    });
  }
  addEventListener("hashchange", apply);
  apply();
})();
