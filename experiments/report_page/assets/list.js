// The list of trajectories: filters and order decide who is in it, and only the rows in sight exist.
const ROW = 58; // pixels, as in style.css
const SPARE = 6; // rows above and below what is in sight

// Which trajectories, in which order: numbers of DATA.trajectories.
function chosen(wish) {
  const text = wish.text.trim().toLowerCase();
  const metric = DATA.metrics.indexOf(wish.metric);
  const fell = (gain) => gain !== null && gain < 0;
  const fits = (t) =>
    (wish.run === "" || t.run === Number(wish.run)) &&
    (wish.case === "" || t.case === wish.case) &&
    (wish.tool === "" || t.steps.some((step) => step.tool === wish.tool)) &&
    (wish.show === "all" ||
      (wish.show === "failed" && t.failed > 0) ||
      (wish.show === "worse" && fell(t.gains[metric])) ||
      (wish.show === "any" && t.gains.some(fell)) ||
      (wish.show === "better" && t.gains[metric] > 0)) &&
    (text === "" || t.image.toLowerCase().includes(text) || t.case.toLowerCase().includes(text) || t.steps.some((step) => step.tool.toLowerCase().includes(text)));
  const found = [];
  DATA.trajectories.forEach((t, place) => fits(t) && found.push(place));
  if (wish.order !== "played") {
    const sign = wish.order === "worst" ? 1 : -1;
    const gain = (place) => DATA.trajectories[place].gains[metric] ?? sign * Infinity;
    found.sort((a, b) => sign * (gain(a) - gain(b)) || a - b);
  }
  return found;
}

function shortTool(tool) {
  return tool === STOP ? STOP : tool.replaceAll("_", " ").replace("/", " / ");
}

class List {
  constructor(box, onChoose) {
    this.box = box;
    this.spacer = box.querySelector(".spacer");
    this.onChoose = onChoose;
    this.places = [];
    this.at = -1;
    this.metric = 0;
    this.rows = new Map();
    box.addEventListener("scroll", () => {
      this.waiting ??= requestAnimationFrame(() => this.render());
    });
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(Number(row.dataset.at));
    });
    new ResizeObserver(() => this.render()).observe(box);
  }

  // Another choice of trajectories; whoever was chosen stays so if it is still there, unless the first is wished for.
  fill(places, metric, first) {
    const before = first ? undefined : this.places[this.at];
    this.places = places;
    this.metric = metric;
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.spacer.style.height = `${places.length * ROW}px`;
    this.at = -1;
    this.choose(Math.max(0, places.indexOf(before)));
    this.render();
  }

  choose(at) {
    if (!this.places.length) {
      this.box.removeAttribute("aria-activedescendant");
      this.onChoose(null);
      return;
    }
    const next = Math.max(0, Math.min(this.places.length - 1, at));
    const changed = next !== this.at;
    this.rows.get(this.at)?.setAttribute("aria-selected", "false");
    this.at = next;
    const top = next * ROW;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ROW - this.box.clientHeight;
    this.render();
    this.rows.get(next)?.setAttribute("aria-selected", "true");
    this.box.setAttribute("aria-activedescendant", `row-${next}`);
    if (changed) this.onChoose(this.places[next]);
  }

  render() {
    this.waiting = undefined;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - SPARE);
    const last = Math.min(this.places.length - 1, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + SPARE);
    for (const [at, row] of this.rows) {
      if (at < first || at > last) {
        row.remove();
        this.rows.delete(at);
      }
    }
    for (let at = first; at <= last; at++) {
      if (!this.rows.has(at)) {
        const row = this.row(at);
        this.rows.set(at, row);
        this.spacer.append(row);
      }
    }
  }

  row(at) {
    const t = DATA.trajectories[this.places[at]];
    const metric = DATA.metrics[this.metric];
    const gain = t.gains[this.metric];
    const last = t.steps.length ? t.steps[t.steps.length - 1].picture : t.picture;
    const tools = t.steps.map((step) => step.tool).filter((tool) => tool !== STOP);
    const chain = tools.length ? tools.map(shortTool).join(" → ") : "no tool";
    return el(
      "div",
      {
        role: "option", id: `row-${at}`, "data-at": at, style: `top:${at * ROW}px`, "aria-selected": String(at === this.at),
        "aria-posinset": at + 1, "aria-setsize": this.places.length,
      },
      picture(last, `${t.image} after ${chain}`, 44, 44),
      el("span", { class: "what" }, el("b", {}, t.image), el("span", { class: "case" }, t.case), el("span", { class: "chain" }, chain)),
      el("span", { class: "gain" + (gain < 0 ? " loss" : "") }, signed(gain, digits(metric)), t.failed ? el("em", {}, plural(t.failed, "failure")) : null),
    );
  }
}
