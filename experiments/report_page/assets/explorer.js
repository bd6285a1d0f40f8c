// The wiring: filters, list and viewer follow each other, and so does the keyboard.
function explore() {
  const form = document.getElementById("filters");
  const field = form.elements;
  const count = document.getElementById("count");
  const viewer = new Viewer(document.getElementById("viewer"));
  const list = new List(document.getElementById("list"), (place) => viewer.show(place, DATA.metrics.indexOf(field.metric.value)));
  const of = (values) => [...new Set(values)].sort((a, b) => a.localeCompare(b)).map((value) => [value, value]);
  const any = ["", "any"];

  options(field.case, [any, ...of(DATA.trajectories.map((t) => t.case))]);
  options(field.tool, [any, ...of(DATA.trajectories.flatMap((t) => t.steps.map((step) => step.tool)))]);
  options(field.metric, DATA.metrics.map((metric) => [metric, metric]));
  options(field.show, [["all", "all"], ["failed", "with failures"], ["worse", "where the metric fell"], ["any", "where any metric fell"], ["better", "where the metric rose"]]);
  options(field.order, [["played", "as played"], ["worst", "worst first"], ["best", "best first"]]);
  if (field.run) options(field.run, [any, ...DATA.runs.map((name, place) => [String(place), name])]);

  let order = "played";
  function filter() {
    const value = (name) => (field[name] ? field[name].value : "");
    const wish = Object.fromEntries(["text", "run", "case", "tool", "show", "metric", "order"].map((name) => [name, value(name)]));
    const found = chosen(wish);
    const all = DATA.trajectories.length;
    count.textContent = found.length === all ? `${all}` : `${found.length} of ${all}`;
    viewer.t = null;
    const before = order;
    order = wish.order === "played" ? wish.order : `${wish.order} ${wish.metric}`;
    list.fill(found, DATA.metrics.indexOf(wish.metric), order !== before); // of another order the first is looked for
  }

  form.addEventListener("change", filter);
  field.text.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());

  document.querySelector(".explorer").addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, summary") || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.floor(list.box.clientHeight / ROW);
    const moves = {
      ArrowUp: () => list.choose(list.at - 1), ArrowDown: () => list.choose(list.at + 1),
      PageUp: () => list.choose(list.at - page), PageDown: () => list.choose(list.at + page),
      Home: () => list.choose(0), End: () => list.choose(list.places.length - 1),
      ArrowLeft: () => viewer.step(-1), ArrowRight: () => viewer.step(1),
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
    if (document.activeElement === document.body) list.box.focus({ preventScroll: true }); // what had it was drawn anew
  });
  filter();
}

document.querySelectorAll("svg.chart").forEach(readable);
document.querySelectorAll("table.sortable").forEach(sortable);
const rivalTable = document.getElementById("rival-table");
if (rivalTable) singles(rivalTable, document.getElementById("singles"));
if (DATA.trajectories.length) explore();
document.documentElement.dataset.ready = performance.now().toFixed(0);
