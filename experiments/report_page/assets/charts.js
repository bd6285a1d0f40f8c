// Values of a chart at the pointer, or at the arrow keys' place.
function readable(svg) {
  const frame = JSON.parse(svg.dataset.frame);
  const series = JSON.parse(svg.dataset.series);
  const cursor = svg.querySelector(".cursor");
  const output = svg.parentElement.querySelector("output");
  let at = null;

  function show(x) {
    at = Math.max(frame.first, Math.min(frame.last, x));
    const place = frame.left + ((at - frame.first) / (frame.last - frame.first)) * (frame.right - frame.left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    const said = series.map((s) => {
      const k = s.x.indexOf(at);
      const value = k < 0 ? "–" : brief(s.y[k]);
      return series.length > 1 ? `${s.name} ${value}` : value;
    });
    output.textContent = `${at}: ` + said.join(" · ");
  }

  function hide() {
    at = null;
    cursor.setAttribute("x1", -9);
    cursor.setAttribute("x2", -9);
    output.textContent = "";
  }

  function point(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    show(Math.round(frame.first + ((x - frame.left) / (frame.right - frame.left)) * (frame.last - frame.first)));
  }

  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && hide()); // a finger leaves with every tap
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(at === null ? frame.last : at + by);
  });
}
