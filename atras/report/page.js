"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const figureOf = (cell) => Number.parseFloat(cell.textContent);
  const order = new Intl.Collator("en", { numeric: true });

  // Rows without a figure stay last, whichever way the others go.
  function compare(a, b, column, sign) {
    const left = a.cells[column], right = b.cells[column];
    if (left.tagName !== "TH") {
      const x = figureOf(left), y = figureOf(right);
      if (!Number.isNaN(x) || !Number.isNaN(y)) {
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
        return sign * (x - y);
      }
    }
    return sign * order.compare(left.textContent.trim(), right.textContent.trim());
  }

  // Figures begin with the highest; names, and the ranks that stand before them, with the first.
  function firstSign(rows, column) {
    const names = [...rows[0].cells].findIndex((cell) => cell.tagName === "TH");
    return column <= names || rows.every((row) => Number.isNaN(figureOf(row.cells[column]))) ? 1 : -1;
  }

  function makeSortable(box) {
    const body = box.querySelector("tbody"), rows = [...body.rows], heads = all("thead th", box);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const turn = { ascending: -1, descending: 1 }[head.getAttribute("aria-sort")];
      const sign = turn ?? firstSign(rows, column);
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...rows.sort((a, b) => compare(a, b, column, sign)));
    }));
    const search = box.querySelector(".filter-text"), choices = all(".filter-value", box);
    const count = box.querySelector(".count"), cut = box.querySelector(".on-paper");
    // What stands below a cell's first line is not filtered by.
    const valueOf = (row, choice) => row.cells[choice.dataset.column].firstChild.textContent.trim();
    function filter() {
      const words = search.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word)) ||
          choices.some((choice) => choice.value && valueOf(row, choice) !== choice.value);
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length}`;
      if (cut) {
        cut.hidden = shown <= cut.dataset.most;
        cut.querySelector("span").textContent = shown;
      }
    }
    for (const choice of choices) {
      const values = new Set(rows.map((row) => valueOf(row, choice)));
      for (const value of [...values].sort(order.compare)) choice.append(new Option(value, value));
      choice.addEventListener("change", filter);
    }
    search.addEventListener("input", filter);
  }

  const tip = document.getElementById("tip");
  function showTip(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  // Arrow keys go from mark to mark; Escape leaves them.
  function makeMarks(svg) {
    const marks = all(".m", svg);
    for (const mark of marks) {
      const title = mark.querySelector("title");
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    let at = -1;
    const leave = () => { marks[at]?.classList.remove("on"); hideTip(); };
    function go(next) {
      leave();
      at = (next + marks.length) % marks.length;
      marks[at].classList.add("on");
      const box = marks[at].lastElementChild.getBoundingClientRect();
      showTip(marks[at].dataset.tip, box.right, box.bottom);
    }
    svg.addEventListener("pointermove", (event) => {
      const mark = event.target.closest(".m");
      if (mark) showTip(mark.dataset.tip, event.clientX, event.clientY); else hideTip();
    });
    svg.addEventListener("pointerleave", hideTip);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || !marks.length) return;
      event.preventDefault();
      go(at < 0 && step < 0 ? marks.length - 1 : at + step);
    });
  }

  function makeGrid(svg) {
    const grid = JSON.parse(svg.dataset.grid), n = grid.names.length;
    const cursor = document.createElementNS(svg.namespaceURI, "rect");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("width", grid.cell);
    cursor.setAttribute("height", grid.cell);
    let at = null;
    function leave() { at = null; cursor.remove(); hideTip(); }
    function go(row, column, x, y) {
      at = [row, column];
      cursor.setAttribute("x", grid.x + column * grid.cell);
      cursor.setAttribute("y", grid.y + row * grid.cell);
      svg.append(cursor);
      const box = cursor.getBoundingClientRect();
      const figures = Object.entries(grid.layers).map(([label, values]) => {
        const value = values[row * n + column];
        return `${label} ${value === null ? "-" : (value / 10000).toFixed(4)}`;
      });
      showTip(`${grid.names[row]} → ${grid.names[column]}: ${figures.join(", ")}`, x ?? box.right, y ?? box.bottom);
    }
    svg.addEventListener("pointermove", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const column = Math.floor((point.x - grid.x) / grid.cell), row = Math.floor((point.y - grid.y) / grid.cell);
      if (row < 0 || column < 0 || row >= n || column >= n) leave(); else go(row, column, event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") leave();
      if (!step) return;
      event.preventDefault();
      const [row, column] = at ? [at[0] + step[0], at[1] + step[1]] : [0, 0];
      go(Math.max(0, Math.min(n - 1, row)), Math.max(0, Math.min(n - 1, column)));
    });
  }

  function makeRuns(nav) {
    const buttons = all("button", nav), articles = all("article");
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const id = button.getAttribute("aria-controls");
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        articles.forEach((article) => { article.hidden = id !== null && article.id !== id; });
      });
    }
  }

  // Where all is to be printed nothing is collapsed on paper.
  let shut = [];
  addEventListener("beforeprint", () => {
    shut = document.getElementById("print-all").checked ? all("details:not([open])") : [];
    shut.forEach((box) => { box.open = true; });
  });
  addEventListener("afterprint", () => shut.forEach((box) => { box.open = false; }));

  all(".sortable").forEach(makeSortable);
  all("svg.chart").forEach((svg) => (svg.dataset.grid ? makeGrid(svg) : makeMarks(svg)));
  all("nav.runs").forEach(makeRuns);
  document.addEventListener("scroll", hideTip, { passive: true, capture: true });
})();
