"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"] };

  function draw(id, name) {
    const place = document.getElementById(id);
    if (!place) return;
    const figure = page.figures[name];
    place.hidden = !figure;
    if (figure) Plotly.react(place, figure.data, figure.layout, config);
  }

  function formatMs(us) {
    return us >= 1e6 ? (us / 1e6).toPrecision(3) + " s" : us >= 1e3 ? (us / 1e3).toPrecision(3) + " ms" : us.toPrecision(3) + " us";
  }

  // The slider runs over the logarithm of the budget, from the fastest step to a little past the last.
  const slider = document.getElementById("slider");
  function budgetSteps() {
    const rows = [...document.querySelectorAll("#budget tbody tr")];
    return rows.map((row) => ({ row, from: Number(row.dataset.from) })).sort((a, b) => a.from - b.from);
  }

  function budgetRange(steps) {
    return [Math.log(steps[0].from), Math.log(steps[steps.length - 1].from * 1.05)];
  }

  function start(key) {
    const steps = budgetSteps();
    if (!steps.length || page.start_us[key] === null) return;
    const [low, high] = budgetRange(steps);
    slider.value = Math.ceil((1000 * (Math.log(page.start_us[key]) - low)) / (high - low));
  }

  function choose() {
    const steps = budgetSteps();
    if (!steps.length) return;
    const [low, high] = budgetRange(steps);
    const budget = Math.exp(low + ((high - low) * Number(slider.value)) / 1000) * (1 + 1e-9);
    let chosen = steps[0];
    for (const step of steps) {
      step.row.classList.remove("chosen");
      if (step.from <= budget) chosen = step;
    }
    chosen.row.classList.add("chosen");
    const name = chosen.row.cells[1].textContent;
    document.getElementById("chosen").textContent = formatMs(budget) + ": deploy " + name;
    highlight(name, budget);
  }

  function highlight(name, budget) {
    const place = document.getElementById("front");
    if (!place || !place.data) return;
    const index = place.data.findIndex((trace) => trace.meta === "members");
    const ids = place.data[index].ids || [];
    Plotly.restyle(place, { "marker.size": [ids.map((id) => (id === name ? 16 : 10))] }, [index]);
    const scale = place.layout.meta.us;
    const line = { type: "line", xref: "x", yref: "paper", x0: budget / scale, x1: budget / scale, y0: 0, y1: 1 };
    Plotly.relayout(place, { shapes: [{ ...line, line: { color: "#94a3b8", width: 1, dash: "dot" } }] });
  }

  function sortable(table) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.tabIndex = 0;
      const sort = () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[column].dataset.value;
        const compare = (a, b) => {
          const x = value(a), y = value(b);
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : Number(x) - Number(y);
          return up ? order : -order;
        };
        [...table.tBodies[0].rows].sort(compare).forEach((row) => table.tBodies[0].append(row));
      };
      heading.addEventListener("click", sort);
      heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    });
  }

  const view = document.getElementById("view");
  function show() {
    if (!view) return;
    const key = view.value, at = key.indexOf("@");
    draw("front", "front-" + key);
    draw("prediction", "prediction-" + key);
    draw("provenance", "provenance-" + (at < 0 ? "" : key.slice(at + 1)));
    document.getElementById("budgets").innerHTML = page.budgets[key];
    document.querySelectorAll("#budgets table").forEach(sortable);
    start(key);
    choose();
  }

  draw("widths", "widths");
  draw("devices", "devices");
  document.querySelectorAll("table").forEach(sortable);
  if (view) {
    view.addEventListener("change", show);
    slider.addEventListener("input", choose);
    show();
  }
})();
