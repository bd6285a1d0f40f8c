// One trajectory: its states in a strip, two of them under a slider, scores, and what the policy said.
class Viewer {
  constructor(box) {
    this.box = box;
    this.split = 50;
    this.before = "input";
    this.wished = null; // smooth or not, once the reader has said so
    this.t = null;
  }

  show(place, metric) {
    this.metric = metric;
    this.t = place === null ? null : DATA.trajectories[place];
    if (this.t === null) {
      this.box.replaceChildren(el("p", { class: "empty" }, "Nothing fits these filters."));
      return;
    }
    const t = this.t;
    const steps = t.steps.map((step, k) => ({ ...step, name: step.tool === STOP ? STOP : `${k + 1}. ${step.tool}` }));
    const input = { name: "input", picture: t.picture, raw: t.raw, gains: t.raw.map((value) => (value === null ? null : 0)) };
    this.states = [input, ...steps];
    if (t.reference !== null) this.states.push({ name: "reference", picture: t.reference, raw: [], gains: [], reference: true });
    this.at = steps.length;
    this.smooth = this.wished ?? Math.max(...(t.size ?? [0])) > DATA.side; // every pixel is shown where there are all of them
    this.build();
  }

  build() {
    const t = this.t;
    const facts = [DATA.runs.length > 1 ? DATA.runs[t.run] : null, `no. ${t.number}`, t.source, t.crop ? `crop ${t.crop} at ${t.corner.join(", ")}` : "whole", `seed ${t.seed}`];
    this.strip = el("div", { class: "strip", role: "group", "aria-label": "Steps" });
    this.stage = el("div", { class: "stage" });
    this.scores = el("div", { class: "scroll" });
    this.details = el("div", { class: "details" });
    this.box.replaceChildren(
      el("header", {}, el("h3", {}, t.image), el("p", { class: "small" }, facts.filter(Boolean).join(" · "))),
      el("p", { class: "record" }, ...t.record.map(([name, params]) => el("span", {}, el("b", {}, name), params ? " " + params : ""))),
      this.strip,
      el("div", { class: "split" }, el("div", { class: "left" }, this.controls(), this.stage, this.slider()), el("div", { class: "right" }, this.scores, this.details)),
    );
    this.drawStrip();
    this.draw();
  }

  controls() {
    const before = el("select", { "aria-label": "What the left side shows", onchange: (event) => { this.before = event.target.value; this.drawStage(); } });
    options(before, [["input", "input"], ["previous", "the step before"], ...(this.t.reference === null ? [] : [["reference", "reference"]])]);
    if (this.before === "reference" && this.t.reference === null) this.before = "input";
    before.value = this.before;
    const smooth = el("input", { type: "checkbox", onchange: (event) => { this.wished = this.smooth = event.target.checked; this.stage.classList.toggle("smooth", this.smooth); } });
    smooth.checked = this.smooth;
    this.after = el("b", {});
    return el("div", { class: "controls" }, el("label", {}, "left ", before), el("span", {}, "right ", this.after), el("label", { class: "check" }, smooth, " smooth"));
  }

  slider() {
    this.range = el("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "Between left and right picture", oninput: (event) => this.divide(Number(event.target.value)) });
    this.range.value = this.split;
    return this.range;
  }

  divide(split) {
    this.split = Math.max(0, Math.min(100, split));
    this.stage.style.setProperty("--split", `${this.split}%`);
    this.range.value = this.split;
    this.range.setAttribute("aria-valuetext", `${Math.round(this.split)} percent left picture`);
  }

  step(by) {
    if (this.t) this.go(this.at + by);
  }

  go(at) {
    const focused = this.strip.contains(document.activeElement);
    this.at = Math.max(0, Math.min(this.states.length - 1, at));
    this.draw();
    if (focused) this.strip.children[this.at].focus({ preventScroll: true });
  }

  drawStrip() {
    const metric = DATA.metrics[this.metric];
    this.strip.replaceChildren(
      ...this.states.map((state, k) => {
        const gain = state.gains[this.metric];
        const before = k ? this.states[k - 1].gains[this.metric] : null;
        const change = k && !state.reference && gain !== null && before !== null ? gain - before : null;
        const raw = state.raw[this.metric];
        const said = state.failure ? "failed" : state.unscored ? "not scored" : state.reference ? "" : raw === undefined ? "" : `${metric} ${number(raw, digits(metric))}`;
        const alt = `${this.t.image}, ${state.name}${said ? ", " + said : ""}`;
        const moved = state.failure || state.tool === STOP || change === null ? null : el("span", { class: "change" + (change < 0 ? " loss" : "") }, signed(change, digits(metric)));
        return el(
          "button",
          { type: "button", class: state.failure || state.unscored ? "failed" : null, onclick: () => this.go(k) },
          picture(state.picture, alt, 88, 88), el("span", { class: "name" }, ...breakable(state.name)), el("span", { class: "score" }, said), moved,
        );
      }),
    );
  }

  draw() {
    [...this.strip.children].forEach((button, k) => (k === this.at ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current")));
    const button = this.strip.children[this.at];
    if (button.offsetLeft < this.strip.scrollLeft) this.strip.scrollLeft = button.offsetLeft;
    else if (button.offsetLeft + button.offsetWidth > this.strip.scrollLeft + this.strip.clientWidth) this.strip.scrollLeft = button.offsetLeft + button.offsetWidth - this.strip.clientWidth;
    this.drawStage();
    this.drawScores();
    this.drawDetails();
  }

  drawStage() {
    const state = this.states[this.at];
    const other = this.before === "input" ? this.states[0] : this.before === "reference" ? this.states[this.states.length - 1] : this.states[Math.max(0, this.at - 1)];
    this.after.textContent = state.name;
    const [height, width] = this.t.size ?? [1, 1];
    this.stage.style.setProperty("--ratio", width / height);
    this.stage.classList.toggle("smooth", this.smooth);
    const left = picture(other.picture, `left: ${this.t.image}, ${other.name}`, width, height);
    const right = picture(state.picture, `right: ${this.t.image}, ${state.name}`, width, height);
    left.classList.add("before");
    this.stage.replaceChildren(right, left, el("span", { class: "edge", "aria-hidden": "true" }));
    this.stage.onpointerdown = (event) => {
      this.stage.setPointerCapture(event.pointerId);
      this.follow(event);
      this.stage.onpointermove = (moved) => this.follow(moved);
    };
    this.stage.onpointerup = this.stage.onpointercancel = () => (this.stage.onpointermove = null);
    this.divide(this.split);
  }

  follow(event) {
    const box = this.stage.getBoundingClientRect();
    this.divide(((event.clientX - box.left) / box.width) * 100);
  }

  drawScores() {
    const states = this.states.filter((state) => !state.reference);
    const mark = (k) => (k === this.at ? "here" : null);
    const head = el("tr", {}, el("th", { scope: "col" }, "score"), ...states.map((state, k) => el("th", { scope: "col", class: mark(k), title: state.name }, k === 0 ? "input" : state.tool === STOP ? STOP : String(k))), el("th", { scope: "col" }, "gain"));
    const rows = DATA.metrics.map((metric, m) => {
      const gain = this.t.gains[m];
      return el(
        "tr", { class: m === this.metric ? "main" : null }, el("th", { scope: "row" }, metric),
        ...states.map((state, k) => el("td", { class: mark(k) }, number(state.raw[m], digits(metric)))),
        el("td", { class: gain < 0 ? "loss" : null }, signed(gain, digits(metric))),
      );
    });
    const rewards = el("tr", {}, el("th", { scope: "row" }, "reward"), ...states.map((state, k) => el("td", { class: mark(k) }, k ? signed(state.reward) : "")), el("td", {}, signed(this.t.reward)));
    this.scores.replaceChildren(el("table", { class: "scores" }, el("thead", {}, head), el("tbody", {}, ...rows, rewards)));
  }

  drawDetails() {
    const state = this.states[this.at];
    const parts = [el("h4", {}, state.name)];
    if (state.failure) parts.push(el("p", { class: "failure" }, "The tool failed, the image stayed: " + state.failure));
    if (state.unscored) parts.push(el("p", { class: "failure" }, "Not scored: " + state.unscored));
    if (this.at === 0) parts.push(el("p", { class: "small" }, "The photograph as the policy found it."));
    if (state.reference) parts.push(el("p", { class: "small" }, "The clean photograph that scores are held against."));
    if (state.tool) {
      const facts = [state.size ? `${state.size[1]}×${state.size[0]}` : null, state.seconds ? duration(state.seconds) : null, state.remembered ? "remembered, not computed again" : null];
      if (state.policy_calls) facts.push(plural(state.policy_calls, "policy call"));
      if (state.tool_calls) facts.push(plural(state.tool_calls, "tool call"));
      if (state.invalid) facts.push("the reward says nothing of this decision");
      parts.push(el("p", { class: "small" }, facts.filter(Boolean).join(" · ")));
    }
    if (state.probabilities) parts.push(el("p", { class: "label" }, "What the policy thought likely"), this.bars(state));
    if (state.said) parts.push(el("p", { class: "label" }, "What the policy said"), ...state.said.map((text) => el("pre", {}, text)));
    this.details.replaceChildren(...parts);
  }

  bars(state) {
    const rows = state.probabilities.map(([name, share]) =>
      el("tr", { class: name === state.tool ? "taken" : null }, el("th", { scope: "row" }, name), el("td", { class: "meter" }, el("span", { style: `width:${(100 * share).toFixed(1)}%` })), el("td", {}, `${(100 * share).toFixed(1)} %`)),
    );
    return el("table", { class: "bars" }, el("tbody", {}, ...rows));
  }
}
