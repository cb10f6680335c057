// Numbers as people read them, and charts of the last fifteen minutes.

const SPAN = 900;                       // seconds that are known at most
const SHOWN = [60, 120, 300, SPAN];     // of which so many are shown, as few as there are

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function duration(seconds) {            // how long something takes
  if (!isNumber(seconds)) return "–";
  if (seconds === 0) return "0 ms";
  if (seconds < 0.0009995) return `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 0.9995) return `${Number((seconds * 1e3).toPrecision(seconds < 0.1 ? 2 : 3))} ms`;
  return seconds < 59.95 ? `${seconds.toFixed(1)} s` : ago(seconds);
}

function ago(seconds) {                 // how long something is ago, or lasts already
  if (!isNumber(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  return whole < 86400 ? `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min` : `${Math.floor(whole / 86400)} d`;
}

function rate(value) {
  if (!isNumber(value)) return "–";
  return value >= 9.95 || value === 0 ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();  // of a moment since 1970
const percent = (value) => (isNumber(value) ? `${Math.round(value * 100)} %` : "–");
const count = (value) => (isNumber(value) ? value.toLocaleString("en") : "–");
const bytes = (value) => (!isNumber(value) ? "" : value < 2 ** 30 ? `${Math.round(value / 2 ** 20)} MiB` : `${(value / 2 ** 30).toFixed(1)} GiB`);

function element(name, options = {}, ...children) {
  const { text, ...attributes } = options;
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function say(node, text) {              // what has not changed is left alone, as a reader may be at it
  if (node.textContent !== text) node.textContent = text;
}

function roof(value, least) {           // a round number that is not below this one
  if (!(value > least)) return least;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= value * (1 - 1e-9));
}

// One chart: `series` are drawn from `slots`, one for each second of the span, oldest first, null where there was no pool.
class Chart {
  constructor({ title, series, show, least, most }) {
    Object.assign(this, { title, series, show, least, most, place: null, shown: SPAN, slots: [] });
    this.keys = series.map((each) => element("span", { class: `key ${each.look}` }));
    this.paths = series.map((each) => drawn("path", { class: `${each.kind} ${each.look}` }));
    this.under = drawn("path", { class: "under" });
    this.grid = drawn("path", { class: "grid" });
    this.cursor = drawn("path", { class: "cursor" });
    this.top = element("span", { class: "top" });
    this.svg = drawn("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    this.svg.append(this.grid, this.under, ...this.paths, this.cursor);
    this.plot = element("div", { class: "plot" }, this.svg, this.top);
    [this.oldest, this.middle] = [element("span"), element("span")];
    const scale = element("div", { class: "scale", "aria-hidden": "true" }, this.oldest, this.middle, element("span", { text: "now" }));
    this.figure = element("figure", { tabindex: "0", role: "img" },
      element("figcaption", {}, element("h3", { text: title }), ...this.keys), this.plot, scale);
  }

  draw(slots, shown) {
    Object.assign(this, { slots, shown });
    this.svg.setAttribute("viewBox", `${SPAN - shown} 0 ${shown} 100`);
    this.grid.setAttribute("d", `M0 50H${SPAN}M${SPAN - shown / 3} 0V100M${SPAN - (shown * 2) / 3} 0V100`);
    say(this.oldest, `${ago(shown)} ago`);
    const values = this.series.map((each) => slots.map((slot) => (slot === null ? null : each.of(slot))));
    const seen = values.flat().filter(isNumber);
    const most = this.most ?? roof(seen.reduce((a, b) => Math.max(a, b), 0), this.least);
    say(this.top, this.show(most));
    values.forEach((each, index) => this.paths[index].setAttribute("d", this.path(each, this.series[index].kind, most)));
    if (this.series[0].kind === "line") this.under.setAttribute("d", this.path(values[0], "under", most));
    this.read();
  }

  path(values, kind, most) {
    const height = (value) => (100 - Math.min(1, value / most) * 97).toFixed(1);
    let d = "";
    values.forEach((value, x) => {
      if (!isNumber(value)) return;
      const [isFirst, isLast] = [!isNumber(values[x - 1]), !isNumber(values[x + 1])];
      if (kind === "bar") d += value > 0 ? `M${x} 100V${height(value)}h${this.shown / 150}V100z` : "";
      else if (kind === "under") d += `${isFirst ? `M${x} 100V` : `L${x} `}${height(value)}${isLast ? "h1V100z" : ""}`;
      else d += `${isFirst ? "M" : "L"}${x} ${height(value)}${isLast ? "h1" : ""}`;
    });
    return d;
  }

  point(place) {                        // a second to read, or null for the present
    this.place = place;
    this.cursor.setAttribute("d", place === null ? "" : `M${place + 0.5} 0V100`);
    this.read();
  }

  read() {
    const at = this.place ?? this.slots.length - 1;
    const slot = this.slots[at] ?? null;
    const texts = this.series.map((each) => `${each.label} ${this.show(slot === null ? null : each.of(slot))}`);
    texts.forEach((text, index) => say(this.keys[index], text));
    say(this.middle, this.place === null ? "" : `${ago(SPAN - 1 - this.place)} ago`);
    const when = this.place === null ? "now" : this.middle.textContent;
    this.figure.setAttribute("aria-label", `${this.title}, ${when}: ${texts.join(", ")}. Arrow keys read the past.`);
  }
}

// The charts of one page: what is pointed at in one is read in all of them.
class Charts {
  constructor(place, title) {
    Object.assign(this, { title, shown: SPAN });
    const ended = (slot) => slot.returned + slot.failed;
    this.all = [
      new Chart({ title: "Waits", show: duration, least: 0.001, series: [
        { label: "p50", look: "main", kind: "line", of: (slot) => slot.p50 },
        { label: "p99", look: "second", kind: "line", of: (slot) => slot.p99 }] }),
      new Chart({ title: "Calls per second", show: rate, least: 1, series: [
        { label: "ended", look: "main", kind: "line", of: ended },
        { label: "failed", look: "bad", kind: "line", of: (slot) => slot.failed }] }),
      new Chart({ title: "Utilisation", show: percent, most: 1, series: [
        { label: "slots in use", look: "main", kind: "line", of: (slot) => slot.busy }] }),
      new Chart({ title: "Deaths", show: count, least: 1, series: [
        { label: "workers", look: "bad", kind: "bar", of: (slot) => slot.deaths }] }),
    ];
    for (const chart of this.all) {
      place.append(chart.figure);
      chart.plot.addEventListener("pointermove", (event) => {
        const box = chart.plot.getBoundingClientRect();
        this.point(Math.floor(SPAN - (1 - (event.clientX - box.left) / box.width) * this.shown));
      });
      chart.plot.addEventListener("pointerleave", () => this.point(null));
      chart.figure.addEventListener("keydown", (event) => this.press(event));
      chart.figure.addEventListener("blur", () => this.point(null));
    }
  }

  press(event) {
    const at = this.all[0].place ?? SPAN - 1;
    const step = event.shiftKey ? 60 : 5;
    const to = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: SPAN }[event.key];
    if (to === undefined && event.key !== "Escape") return;
    event.preventDefault();
    this.point(to ?? null);
  }

  point(place) {
    const within = place === null ? null : Math.min(SPAN - 1, Math.max(SPAN - this.shown, place));
    for (const chart of this.all) chart.point(within);
  }

  draw(slots) {
    const known = SPAN - Math.max(0, slots.findIndex((slot) => slot !== null));
    this.shown = SHOWN.find((shown) => shown >= known);
    say(this.title, this.shown === 60 ? "The last minute" : `The last ${this.shown / 60} minutes`);
    for (const chart of this.all) chart.draw(slots, this.shown);
  }
}
