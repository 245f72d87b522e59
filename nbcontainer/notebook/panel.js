// The live panel of one run: draws rows that the kernel sends, and sends back what is clicked. Data only, no HTML from
// the kernel: every text goes through textContent.

// The order of nbcontainer.notebook.view.Row.
export const FIELDS = [
  "seconds", "memory", "workingSet", "peak", "cpu", "user", "system", "throttled", "pids", "ioRead", "ioWrite",
  "netRx", "netTx", "cpuPressure", "memoryPressure", "ioPressure", "hostCpu", "hostMemory",
];
const CAPACITY = 4800;
const ROW_SECONDS = 0.05;
const MIB = 1024 * 1024;
const SMALLEST_BYTES = 8 * MIB;
const WIDGET_VIEW = "application/vnd.jupyter.widget-view+json";

// ---- numbers and words (pure: tested without a browser)

export function formatBytes(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  const units = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", MIB], ["KiB", 1024]];
  for (const [unit, factor] of units) {
    if (bytes >= factor) return `${trim(bytes / factor)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
}

function trim(number) {
  return number >= 100 ? String(Math.round(number)) : String(Math.round(number * 10) / 10);
}

export function formatRate(bytes) {
  return Number.isFinite(bytes) ? `${formatBytes(bytes)}/s` : "–";
}

export function formatPercent(percent) {
  if (!Number.isFinite(percent)) return "–";
  return `${percent >= 10 || percent === 0 ? Math.round(percent) : Math.round(percent * 10) / 10} %`;
}

// Round numbers for an axis from 0 to top; in powers of two for bytes.
export function ticks(top, count, isBytes) {
  const unit = isBytes ? 1024 ** Math.floor(Math.log2(Math.max(top, 1)) / 10) : 1;
  const rough = top / unit / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = isBytes ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].filter((s) => s >= rough) : [1, 2, 2.5, 5, 10].map((s) => s * power).filter((s) => s >= rough);
  const step = (isBytes && rough < 1 ? power * ([1, 2, 5, 10].find((s) => s * power >= rough) || 10) : steps[0] || rough) * unit;
  const found = [];
  for (let value = 0; value <= top * 1.0001; value += step) found.push(value);
  return found;
}

// Where the axis ends: a limit that is far above the curve would press it flat, and is only named then.
export function axisTop(highest, limits, least) {
  let top = Math.max(highest, least);
  for (const limit of limits) if (limit && limit <= 4 * top) top = Math.max(top, limit);
  return top * 1.12;
}

// Of a marker's sign, with the space around it.
const GLYPH_WIDTH = 8;

// Of a limit's label, and of the space on both sides of it.
const LABEL_HEIGHT = 13;
const LABEL_MARGIN = 4;

// The same warning is spoken again after so long.
const ALERT_MILLISECONDS = 30000;

// So long after it has moved something, a hand is on it.
const HAND_MILLISECONDS = 700;

// After so long without news of a run that goes on, its kernel is gone, or out of reach. With rare samples: after three of them.
const SILENT_SECONDS = 5;
const NO_NEWS = "The kernel says nothing any more: it has ended (and its containers with it), or the connection is lost.";

// A hint stays long enough to be read, also when Linux has answered at once.
const HINT_MILLISECONDS = 4000;

// A slider's position 0..1000 for a size, on a logarithmic scale, and back (in whole MiB).
export function sizeToSlider(bytes, most) {
  return Math.round((1000 * Math.log(Math.max(bytes, SMALLEST_BYTES) / SMALLEST_BYTES)) / Math.log(most / SMALLEST_BYTES));
}

export function sliderToSize(position, most) {
  const mib = Math.round((SMALLEST_BYTES * (most / SMALLEST_BYTES) ** (position / 1000)) / MIB);
  return Math.min(mib, Math.floor(most / MIB)) * MIB;
}

// At most so many rows, as nbcontainer.notebook.view.envelope makes them: two of each stretch of time, with the least and the most
// of each column. So each curve keeps its bursts and its dips.
export function envelope(rows, most) {
  let stretches = [];
  for (let width = ROW_SECONDS; ; width *= 2) {
    stretches = [];
    let number = null;
    for (const row of rows) {
      const here = Math.trunc(row.seconds / width);
      if (here !== number) stretches.push([]);
      number = here;
      stretches[stretches.length - 1].push(row);
    }
    if (stretches.reduce((sum, stretch) => sum + Math.min(2, stretch.length), 0) <= most) break;
  }
  return stretches.flatMap((stretch) => (stretch.length > 2 ? extremes(stretch) : stretch));
}

function extremes(rows) {
  const [first, second] = [{}, {}];
  for (const name of FIELDS) {
    const known = rows.map((row) => row[name]).filter((value) => !Number.isNaN(value));
    const [least, most] = known.length ? [Math.min(...known), Math.max(...known)] : [NaN, NaN];
    [first[name], second[name]] = known.indexOf(least) <= known.indexOf(most) ? [least, most] : [most, least];
  }
  return [first, second];
}

// The rows so far; grows by messages, and thins itself out.
export class Rows {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = [];
    this.next = 0;
  }

  // `first` is the number of the first row in `view`. Returns false when rows before it are missing here.
  add(first, view) {
    const size = 4 * FIELDS.length;
    const complete = first <= this.next;
    for (let i = 0; i < Math.floor(view.byteLength / size); i++) {
      if (first + i < this.next) continue;
      const row = {};
      FIELDS.forEach((name, j) => (row[name] = view.getFloat32(i * size + 4 * j, true)));
      this.rows.push(row);
      this.next = first + i + 1;
    }
    if (this.rows.length > CAPACITY) this.thin();
    return complete;
  }

  thin() {
    const old = this.rows.slice(0, (CAPACITY * 3) / 4);
    this.rows = envelope(old, CAPACITY / 2).concat(this.rows.slice(old.length));
  }

  get last() {
    return this.rows[this.rows.length - 1];
  }

  // The row nearest to a moment.
  at(seconds) {
    let low = 0;
    let high = this.rows.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].seconds < seconds) low = middle + 1;
      else high = middle;
    }
    const [before, here] = [this.rows[low - 1], this.rows[low]];
    return before && seconds - before.seconds < here.seconds - seconds ? low - 1 : low;
  }

  most(name) {
    let most = 0;
    for (const row of this.rows) if (row[name] > most) most = row[name];
    return most;
  }
}

// What is drawn: for each chart its curves; colours and dashes differ both, so that no one has to see colours.
export const CHARTS = [
  {
    key: "memory", label: "Memory", format: formatBytes, bytes: true, least: 8 * MIB, height: 159, shown: true,
    curves: [
      { field: "memory", label: "usage", colour: "blue", width: 2, fill: true },
      { field: "workingSet", label: "working set", colour: "green", dash: [2, 3], width: 1.5 },
      { field: "peak", label: "peak", colour: "grey", dash: [1, 2], width: 1 },
    ],
    lines: [
      { limit: "mem", label: "limit", colour: "red", dash: [7, 4] },
      { limit: "high", label: "memory-high", colour: "orange", dash: [8, 3, 2, 3] },
    ],
    host: { field: "hostMemory", total: (config) => config.host_memory, label: (config) => `of the host's ${formatBytes(config.host_memory)}` },
  },
  {
    key: "cpu", label: "CPU", format: formatPercent, least: 10, height: 129, shown: true,
    curves: [
      { field: "throttled", label: "throttled", colour: "orange", shade: true },
      { field: "cpu", label: "total", colour: "blue", width: 2 },
      { field: "user", label: "user", colour: "green", dash: [2, 3], width: 1.5 },
      { field: "system", label: "system", colour: "purple", dash: [6, 2, 1, 2], width: 1.5 },
    ],
    lines: [{ limit: "cpus", scale: 100, label: "quota", colour: "red", dash: [7, 4] }],
    host: { field: "hostCpu", total: (config) => 100 * config.host_cpus, label: (config) => `of the host's ${config.host_cpus} cores` },
  },
  {
    key: "pids", label: "Processes", format: (n) => String(Math.round(n)), least: 4, height: 85,
    curves: [{ field: "pids", label: "processes and threads", colour: "blue", width: 2 }],
    lines: [{ limit: "pids", label: "limit", colour: "red", dash: [7, 4] }],
  },
  {
    key: "io", label: "Disk", format: formatRate, bytes: true, least: 1024, height: 85,
    curves: [
      { field: "ioRead", label: "read", colour: "blue", width: 2 },
      { field: "ioWrite", label: "write", colour: "orange", dash: [6, 2], width: 2 },
    ],
    lines: [],
  },
  {
    key: "net", label: "Network", format: formatRate, bytes: true, least: 1024, height: 85,
    curves: [
      { field: "netRx", label: "received", colour: "blue", width: 2 },
      { field: "netTx", label: "sent", colour: "orange", dash: [6, 2], width: 2 },
    ],
    lines: [],
  },
  {
    key: "pressure", label: "Pressure", format: formatPercent, least: 10, height: 85,
    curves: [
      { field: "cpuPressure", label: "waits for CPU", colour: "blue", width: 2 },
      { field: "memoryPressure", label: "for memory", colour: "red", dash: [6, 2], width: 2 },
      { field: "ioPressure", label: "for I/O", colour: "green", dash: [2, 3], width: 2 },
    ],
    lines: [],
  },
];

// What stands for a kind of marker in the charts.
export const GLYPHS = { pause: "‖", resume: "▸", limits: "⇅", oom: "✖", end: "■" };

// A marker as the list below the charts has it; "" for the start, which is where the charts begin.
export function describeMarker([seconds, kind, text]) {
  return kind === "start" ? "" : `${seconds.toFixed(1)} s ${text}`;
}

// Where the texts of markers have room on one line: for each its left end, or null where it has none. `places`: [x, width of the text].
export function placeTexts(places, left, right) {
  let taken = left;
  return places.map(([x, width], i) => {
    const end = i + 1 < places.length ? places[i + 1][0] - GLYPH_WIDTH : right;
    const found = [x + GLYPH_WIDTH, x - GLYPH_WIDTH - width].find((from) => from >= taken && from + width <= (from > x ? end : x)) ?? null;
    taken = Math.max(x + GLYPH_WIDTH, found === null ? 0 : found + width + GLYPH_WIDTH);
    return found;
  });
}

// Where a line's label can be read: near the right end, on one of its sides, at the first place (from the right) that is free of
// what is drawn there already; null where none is. `sides`: where its top can be; `boxes`: { x, y, w, h }, as is what comes back.
export function placeLabel(w, h, left, right, sides, boxes) {
  for (const y of sides) {
    const crossed = boxes.filter((box) => box.y < y + h && y < box.y + box.h).sort((a, b) => b.x + b.w - (a.x + a.w));
    let x = right - w;
    for (const box of crossed) if (box.x < x + w && x < box.x + box.w) x = box.x - w;
    if (x >= left) return { x, y, w, h };
  }
  return null;
}

// What a number box says: a value to send (null: no limit), or a line to say instead.
export function readBox(text, { label, unit, optional }) {
  if (text.trim() === "") return optional ? { value: null } : { say: `${label}: no change.` };
  const number = Number(text);
  if (Number.isFinite(number) && number > 0) return { value: number };
  return { say: `${label}: ${text} is not possible. It takes a number of ${unit} above 0; nothing was changed.` };
}

// One row in words, for the read-out and for screen readers; `events`: what markers say of it.
export function describeRow(row, charts, limits, events = []) {
  const parts = [`${row.seconds.toFixed(2)} s`];
  for (const chart of charts) {
    const values = chart.curves.map((curve) => `${curve.label} ${chart.format(row[curve.field])}`);
    parts.push(`${chart.label}: ${values.join(", ")}`);
  }
  if (limits.mem) parts.push(`limit ${formatBytes(limits.mem)}`);
  parts.push(...events);
  return parts.join(" · ");
}

// Put what stays where a notebook has the panel, so that it is saved: as the kernel's own update would, which a page that was
// loaded again, or came late, does not get. `manager`: the front end's widget manager. `outputs`: the figure, its caption, and more;
// false where there is no such place.
export function keepOutputs(manager, modelId, outputs) {
  const cells = manager?.context?.model?.cells;
  let found = false;
  for (let i = 0; i < (cells?.length ?? 0); i++) {
    const list = cells.get(i).outputs;
    if (list && replaceView(list, modelId, outputs)) found = true;
  }
  return found || keepInClassic(manager?.notebook, modelId, outputs);
}

// The classic notebook has plain lists, and draws them when it reads them. A view that it removes loses its model's name: so copies.
function keepInClassic(notebook, modelId, outputs) {
  let found = false;
  for (const { output_area: area } of notebook?.get_cells?.() ?? []) {
    if (!area) continue;
    const list = JSON.parse(JSON.stringify(area.toJSON()));
    const places = { length: list.length, get: (i) => list[i], set: (i, output) => (list[i] = output), add: (output) => list.push(output) };
    if (!replaceView(places, modelId, outputs)) continue;
    const { trusted, collapsed, scroll_state: scrolled } = area;
    area.clear_output(false, true);
    area.trusted = trusted;
    area.fromJSON(list, { collapsed, scrolled: scrolled === "auto" ? undefined : scrolled });
    notebook.set_dirty(true);
    found = true;
  }
  return found;
}

function replaceView(list, modelId, [figure, caption, ...more]) {
  const made = (output) => ({ output_type: "display_data", ...output });
  let found = false;
  for (let i = 0, { length } = list; i < length; i++) {
    if (list.get(i).data?.[WIDGET_VIEW]?.model_id !== modelId) continue;
    list.set(i, made(figure));
    if (i + 1 < length && list.get(i + 1).data?.["text/plain"] === "") list.set(i + 1, made(caption));
    if (!found) for (const output of more) list.add(made(output));
    found = true;
  }
  return found;
}

// A run that ended while it waited for what input() asks leaves its box behind, and JupyterLab runs no cell before that is answered.
export function dropQuestion(root, manager) {
  const box = root.closest(".jp-OutputArea")?.querySelector(".jp-OutputArea-stdin-item");
  if (!box) return;
  box.style.display = "none"; // it goes when the cell runs again
  const kernel = manager?.context?.sessionContext?.session?.kernel;
  if (kernel) kernel.hasPendingInput = false;
}

// ---- the page

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const PADDING = { left: 62, right: 12, top: 17, bottom: 20 };
const HOST_SCALE_WIDTH = 34;

class Chart {
  constructor(definition, panel) {
    this.definition = definition;
    this.panel = panel;
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": `${definition.label} over time` });
    this.legend = element("span", { class: "nbc-legend" });
    this.values = definition.curves.map((curve) => this.legendItem(curve));
    this.lineValues = definition.lines.map((line) => this.legendItem(line));
    if (definition.host) this.hostValue = this.legendItem({ colour: "host", label: "host (scale on the right)", width: 1 });
    this.root = element(
      "figure", { class: "nbc-chart" },
      element("figcaption", {}, element("b", {}, definition.label), this.legend), this.canvas,
    );
    this.root.hidden = !definition.shown;
  }

  legendItem(curve) {
    const key = element("i", { class: `nbc-key${curve.shade ? " nbc-shade" : ""}${curve.dash ? " nbc-dashed" : ""}` });
    key.style.setProperty("--nbc-key", `var(--nbc-${curve.colour})`);
    const value = element("span", { class: "nbc-value" });
    const item = element("span", {}, key, `${curve.label} `, value);
    this.legend.append(item);
    return { item, value };
  }

  layout() {
    const width = Math.max(240, this.root.clientWidth);
    const scale = window.devicePixelRatio || 1;
    const { height } = this.definition;
    if (this.width !== width || this.scale !== scale) {
      [this.width, this.scale] = [width, scale];
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    this.plot = { x: PADDING.left, y: PADDING.top, w: width - PADDING.left - this.panel.paddingRight, h: height - PADDING.top - PADDING.bottom };
  }

  limitOf(line) {
    const value = this.panel.limits[line.limit];
    return value ? value * (line.scale || 1) : null;
  }

  draw(colours) {
    if (this.root.hidden) return;
    this.layout();
    const { definition, panel } = this;
    const { rows } = panel;
    const g = this.canvas.getContext("2d");
    g.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    g.clearRect(0, 0, this.width, definition.height);
    const highest = Math.max(...definition.curves.filter((curve) => !curve.shade).map((curve) => rows.most(curve.field)));
    const limits = definition.lines.map((line) => this.limitOf(line));
    this.top = axisTop(highest, limits, definition.least);
    this.axes(g, colours);
    if (definition.host && panel.showHost) this.hostAxis(g, colours);
    if (rows.rows.length) {
      if (definition.host && panel.showHost) this.curve(g, colours, { field: definition.host.field, colour: "host", width: 1 }, definition.host.total(panel.config));
      for (const curve of definition.curves) this.curve(g, colours, curve, this.top);
    }
    this.drawn = []; // what a label must not cross
    definition.lines.forEach((line, i) => this.limitLine(g, colours, line, limits[i]));
    this.markers(g, colours);
    definition.lines.forEach((line, i) => this.limitLabel(g, colours, line, limits[i]));
    this.cursor(g, colours);
    this.label(limits);
  }

  x(seconds) {
    return this.plot.x + (this.plot.w * seconds) / this.panel.span;
  }

  y(value, top = this.top) {
    return this.plot.y + this.plot.h * (1 - Math.min(value / top, 1.02));
  }

  axes(g, colours) {
    const { plot, definition } = this;
    g.font = `11px ${colours.font}`;
    g.lineWidth = 1;
    g.textBaseline = "middle";
    for (const value of ticks(this.top, definition.height > 100 ? 5 : 2, definition.bytes)) {
      const y = Math.round(this.y(value)) + 0.5;
      g.strokeStyle = colours.grid;
      g.beginPath();
      g.moveTo(plot.x, y);
      g.lineTo(plot.x + plot.w, y);
      g.stroke();
      g.fillStyle = colours.faint;
      g.textAlign = "right";
      g.fillText(definition.format(value), plot.x - 6, y);
    }
    g.textAlign = "center";
    for (const seconds of ticks(this.panel.span, Math.max(2, Math.floor(plot.w / 90)), false)) {
      if (this.x(seconds) > plot.x + plot.w - 10) continue;
      g.fillText(`${Math.round(seconds * 100) / 100} s`, this.x(seconds), plot.y + plot.h + 12);
    }
  }

  // The machine's line has a scale of its own: all of the machine is at the top.
  hostAxis(g, colours) {
    const { plot } = this;
    g.fillStyle = colours.faint;
    g.textAlign = "left";
    g.textBaseline = "middle";
    for (const percent of [0, 50, 100]) g.fillText(formatPercent(percent), plot.x + plot.w + 5, this.y(percent, 100));
  }

  curve(g, colours, curve, top) {
    const { rows } = this.panel.rows;
    g.save();
    g.beginPath();
    g.rect(this.plot.x, this.plot.y - 4, this.plot.w + 1, this.plot.h + 5);
    g.clip();
    g.beginPath();
    const known = rows.filter((row) => Number.isFinite(row[curve.field]));
    if (!known.length) return g.restore();
    known.forEach((row, i) => g[i ? "lineTo" : "moveTo"](this.x(row.seconds), this.y(row[curve.field], top)));
    g.strokeStyle = g.fillStyle = colours[curve.colour];
    g.lineWidth = curve.width || 1;
    g.lineJoin = "round";
    g.setLineDash(curve.dash || []);
    if (!curve.shade) g.stroke();
    if (curve.fill || curve.shade) {
      g.lineTo(this.x(known[known.length - 1].seconds), this.y(0));
      g.lineTo(this.x(known[0].seconds), this.y(0));
      g.globalAlpha = curve.shade ? 0.28 : 0.13;
      g.fill();
    }
    g.restore();
  }

  limitLine(g, colours, line, value) {
    if (!value || value > this.top) return;
    const y = Math.round(this.y(value)) + 0.5;
    g.save();
    g.strokeStyle = colours[line.colour];
    g.lineWidth = 1.5;
    g.setLineDash(line.dash);
    g.beginPath();
    g.moveTo(this.plot.x, y);
    g.lineTo(this.plot.x + this.plot.w, y);
    g.stroke();
    g.restore();
    this.drawn.push({ x: this.plot.x, y: y - 1, w: this.plot.w, h: 2 });
  }

  // At its line; above the chart, where the line is higher than that. Curves pass behind it; the legend names the limit in any case.
  limitLabel(g, colours, line, value) {
    if (!value) return;
    const { plot } = this;
    const above = value > this.top;
    const text = `${line.label} ${this.definition.format(value)}${above ? " ↑" : ""}`;
    g.save();
    g.font = `11px ${colours.font}`;
    const width = g.measureText(text).width + 2 * LABEL_MARGIN;
    const y = this.y(value);
    const sides = above ? [plot.y - LABEL_HEIGHT - 2] : [y - LABEL_HEIGHT - 2, y + 2].filter((side) => side >= plot.y - LABEL_HEIGHT - 2);
    const place = placeLabel(width, LABEL_HEIGHT, plot.x, plot.x + plot.w, sides, this.drawn);
    if (place) {
      this.drawn.push(place);
      g.globalAlpha = 0.8;
      g.fillStyle = colours.back;
      g.fillRect(place.x, place.y, place.w, place.h);
      g.globalAlpha = 1;
      g.fillStyle = colours[line.colour];
      g.textAlign = "left";
      g.textBaseline = "middle";
      g.fillText(text, place.x + LABEL_MARGIN, place.y + place.h / 2);
    }
    g.restore();
  }

  markers(g, colours) {
    const { markers } = this.panel;
    const place = ([seconds]) => Math.round(this.x(seconds)) + 0.5;
    g.save();
    for (const marker of markers) {
      const [, kind] = marker;
      const bad = kind === "oom";
      const x = place(marker);
      g.strokeStyle = g.fillStyle = bad ? colours.red : colours.faint;
      g.lineWidth = bad ? 1.5 : 1;
      g.setLineDash(kind === "start" ? [] : [3, 3]);
      g.beginPath();
      g.moveTo(x, this.plot.y);
      g.lineTo(x, this.plot.y + this.plot.h);
      g.stroke();
      this.drawn.push({ x: x - 1, y: this.plot.y, w: 2, h: this.plot.h });
      if (kind === "start") continue;
      this.drawn.push({ x: x - GLYPH_WIDTH, y: 0, w: 2 * GLYPH_WIDTH, h: this.plot.y - 2 });
      g.textAlign = "center";
      g.textBaseline = "bottom";
      g.font = `12px ${colours.font}`;
      g.fillText(GLYPHS[kind] || "•", x, this.plot.y - 2);
    }
    if (this === this.panel.topChart) this.markerTexts(g, colours, markers.filter(([, kind]) => kind !== "start"), place);
    g.restore();
  }

  // Above the topmost chart, as far as there is room; all of them are in the list below.
  markerTexts(g, colours, markers, place) {
    g.font = `11px ${colours.font}`;
    g.textAlign = "left";
    const right = this.panel.showHost ? this.plot.x + this.plot.w : this.width - 2; // the host's scale is there
    const places = placeTexts(markers.map((marker) => [place(marker), g.measureText(marker[2]).width]), this.plot.x, right);
    markers.forEach(([, kind, text], i) => {
      g.fillStyle = kind === "oom" ? colours.red : colours.text;
      if (places[i] === null) return;
      g.fillText(text, places[i], this.plot.y - 2);
      this.drawn.push({ x: places[i], y: 0, w: g.measureText(text).width, h: this.plot.y - 2 });
    });
  }

  cursor(g, colours) {
    const row = this.panel.hovered;
    if (!row) return;
    const x = this.x(row.seconds);
    g.save();
    g.strokeStyle = colours.text;
    g.globalAlpha = 0.6;
    g.beginPath();
    g.moveTo(x, this.plot.y);
    g.lineTo(x, this.plot.y + this.plot.h);
    g.stroke();
    g.globalAlpha = 1;
    for (const curve of this.definition.curves) {
      if (!Number.isFinite(row[curve.field])) continue;
      g.fillStyle = colours[curve.colour];
      g.beginPath();
      g.arc(x, this.y(row[curve.field]), 3, 0, 7);
      g.fill();
    }
    g.restore();
  }

  label(limits) {
    const { definition, panel } = this;
    const row = panel.hovered || panel.rows.last;
    if (!row) return;
    definition.curves.forEach((curve, i) => (this.values[i].value.textContent = definition.format(row[curve.field])));
    definition.lines.forEach((line, i) => {
      this.lineValues[i].item.hidden = !limits[i];
      this.lineValues[i].value.textContent = limits[i] ? definition.format(limits[i]) : "";
    });
    if (this.hostValue) {
      this.hostValue.item.hidden = !panel.showHost;
      const share = (100 * row[definition.host.field]) / definition.host.total(panel.config);
      this.hostValue.value.textContent = `${formatPercent(share)} ${definition.host.label(panel.config)}`;
    }
  }
}

class Panel {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.config = model.get("config");
    this.limits = this.config.limits;
    this.status = "running";
    this.heardAt = Date.now();
    this.rows = new Rows();
    this.markers = [];
    this.showHost = true;
    this.asked = false;
    this.silent = false;
    this.build();
  }

  build() {
    const { config } = this;
    this.dot = element("span", { class: "nbc-dot", "aria-hidden": "true" });
    this.state = element("span", { class: "nbc-state" });
    this.charts = CHARTS.map((definition) => new Chart(definition, this));
    this.warning = element("div", { class: "nbc-warning" });
    this.alert = element("div", { class: "nbc-hidden", role: "alert" });
    // Whoever cannot see the charts hears of each event once, when it is new.
    this.events = element("ol", { class: "nbc-events", role: "log", "aria-label": "Events", tabindex: "0" });
    this.events.hidden = true;
    this.message = element("div", { class: "nbc-message", role: "status" });
    this.readout = element("div", { class: "nbc-hidden", "aria-live": "polite" });
    const head = element("div", { class: "nbc-head" }, this.dot, element("b", {}, config.title), this.state, this.buttons());
    const parts = [head, this.warning, this.alert, ...this.charts.map((chart) => chart.root), this.toggles(), this.limitControls(), this.message, this.events, this.readout];
    this.root.className = "nbc-panel";
    this.root.setAttribute("role", "region");
    // Else JupyterLab takes arrow keys from the sliders, and Enter on a button edits the cell: older ones look for the attribute.
    this.root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
    this.root.setAttribute("aria-label", `Live view of ${config.title}`);
    this.root.append(...parts);
    this.listen();
    this.showStatus();
  }

  // ---- controls

  buttons() {
    this.pauseButton = this.button("Pause", "Freeze all processes of the container", () => this.send(this.status === "paused" ? "resume" : "pause"));
    this.stopButton = this.button("Stop", "Interrupt (SIGINT); a second time kills", () => this.send("stop"));
    this.killButton = this.button("Kill", "End all processes at once (SIGKILL)", () => this.send("kill"));
    this.killButton.classList.add("nbc-danger");
    return element("span", { class: "nbc-buttons", role: "group", "aria-label": "Controls" }, this.pauseButton, this.stopButton, this.killButton);
  }

  button(text, title, onClick) {
    const made = element("button", { type: "button", title }, text);
    made.disabled = !this.config.controls;
    made.addEventListener("click", onClick);
    return made;
  }

  toggles() {
    const box = element("div", { class: "nbc-toggles", role: "group", "aria-label": "Charts" });
    const toggle = (label, checked, onChange) => {
      const input = element("input", { type: "checkbox" });
      input.checked = checked;
      input.addEventListener("change", () => {
        onChange(input.checked);
        this.redraw();
      });
      box.append(element("label", {}, input, label));
    };
    for (const chart of this.charts) toggle(chart.definition.label, !!chart.definition.shown, (on) => (chart.root.hidden = !on));
    toggle("Host", true, (on) => (this.showHost = on));
    return box;
  }

  limitControls() {
    const { config } = this;
    this.memory = this.limitControl("Memory limit", "MiB", { min: 0, max: 1000, step: 1 }, { min: 1, max: Math.floor(config.host_memory / MIB), step: 1 }, {
      key: "mem",
      fromSlider: (position) => sliderToSize(position, config.host_memory),
      toSlider: (bytes) => sizeToSlider(bytes || config.host_memory, config.host_memory),
      optional: false,
      fromBox: (number) => Math.round(number * MIB),
      toBox: (bytes) => (bytes ? String(Math.round((bytes / MIB) * 10) / 10) : ""),
      words: formatBytes,
    });
    this.cpu = this.limitControl("CPU quota", "cores", { min: 0.05, max: config.host_cpus, step: 0.05 }, { min: 0.01, max: config.host_cpus, step: 0.05 }, {
      key: "cpus",
      fromSlider: (position) => Math.round(position * 100) / 100,
      toSlider: (cpus) => cpus || config.host_cpus,
      optional: true,
      fromBox: (number) => number,
      toBox: (cpus) => (cpus ? String(Math.round(cpus * 100) / 100) : ""),
      words: (cpus) => `${cpus} cores`,
    });
    return element("div", { class: "nbc-limits" }, this.memory.root, this.cpu.root);
  }

  limitControl(label, unit, sliderBounds, boxBounds, how) {
    const slider = element("input", { type: "range", "aria-label": `${label} slider`, ...sliderBounds });
    const box = element("input", { type: "number", "aria-label": `${label} in ${unit}`, placeholder: "none", ...boxBounds });
    const hint = element("span", { class: "nbc-hint" });
    slider.disabled = box.disabled = !this.config.controls;
    const control = { slider, box, hint, how, root: element("label", {}, element("span", { class: "nbc-name" }, label), slider, box, unit, hint) };
    let timer = null;
    const change = (value, now) => {
      control.touched = Date.now();
      this.foresee(control, value);
      clearTimeout(timer);
      const send = () => {
        if (value === control.sent) return; // a slider says its last value twice
        control.sent = value;
        this.send("update", { [how.key]: value });
        setTimeout(() => this.showLimits(), HAND_MILLISECONDS + 50); // what Linux has made of it, once no hand is on it
      };
      timer = setTimeout(send, now ? 0 : 100);
    };
    const fromSlider = (now) => {
      const value = how.fromSlider(Number(slider.value));
      box.value = how.toBox(value);
      slider.setAttribute("aria-valuetext", how.words(value));
      change(value, now);
    };
    slider.addEventListener("input", () => fromSlider(false));
    slider.addEventListener("change", () => fromSlider(true));
    box.addEventListener("input", () => (control.typing = true));
    box.addEventListener("blur", () => (control.typing = false));
    box.addEventListener("change", () => {
      control.typing = false;
      const { value: number, say } = readBox(box.validity.badInput ? "this" : box.value, { label, unit, optional: how.optional });
      if (say) {
        this.say(say, false);
        box.value = how.toBox(this.limits[how.key]);
        return;
      }
      const value = number === null ? null : how.fromBox(number);
      slider.value = how.toSlider(value);
      slider.setAttribute("aria-valuetext", value ? how.words(value) : "none");
      change(value, true);
    });
    return control;
  }

  // Said before Linux can say it.
  foresee(control, value) {
    const used = this.rows.last ? this.rows.last.workingSet : 0;
    const below = control.how.key === "mem" && value !== null && value < used;
    control.hint.textContent = below ? `below the ${formatBytes(used)} in use: Linux will refuse` : "";
    clearTimeout(control.hintTimer);
    control.hintTimer = setTimeout(() => (control.hint.textContent = ""), HINT_MILLISECONDS);
  }

  showLimits() {
    for (const control of [this.memory, this.cpu]) {
      if (Date.now() - (control.touched || 0) < HAND_MILLISECONDS) continue; // a hand is on it
      const value = this.limits[control.how.key];
      control.slider.value = control.how.toSlider(value);
      control.slider.setAttribute("aria-valuetext", value ? control.how.words(value) : "none");
      if (!control.typing) control.box.value = control.how.toBox(value);
    }
  }

  send(kind, set) {
    if (this.status === "ended") return;
    this.model.send(set ? { k: kind, set } : { k: kind });
  }

  // ---- what the kernel says

  listen() {
    this.watch = setInterval(() => this.silent !== this.silentNow() && this.redraw(), 1000);
    this.onMessage = (message, buffers) => this.take(message, buffers || []);
    this.model.on("msg:custom", this.onMessage);
    this.onPointer = (chart, event) => {
      const box = chart.canvas.getBoundingClientRect();
      const seconds = ((event.clientX - box.left - PADDING.left) / chart.plot.w) * this.span;
      this.hover(this.rows.rows.length ? this.rows.at(seconds) : null);
    };
    for (const chart of this.charts) {
      chart.canvas.addEventListener("pointermove", (event) => this.onPointer(chart, event));
      chart.canvas.addEventListener("pointerleave", () => this.hover(null));
      chart.canvas.addEventListener("blur", () => this.hover(null));
      chart.canvas.addEventListener("keydown", (event) => this.onKey(event));
    }
    this.resize = new ResizeObserver(() => this.redraw());
    this.resize.observe(this.root);
    this.theme = new MutationObserver(() => this.redraw());
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
    this.model.send({ k: "hello" });
  }

  take(message, buffers) {
    if (message.k === "said") {
      this.say(message.text, message.ok);
      if (!message.ok) for (const control of [this.memory, this.cpu]) control.touched = control.sent = 0;
      this.showLimits();
      return;
    }
    if (message.k === "end") return this.end(message);
    this.heardAt = Date.now();
    if (message.k === "all") {
      this.rows.clear();
      this.markers = [];
    }
    if (buffers.length) {
      const buffer = buffers[0];
      const view = buffer instanceof DataView ? buffer : new DataView(buffer.buffer || buffer);
      const complete = this.rows.add(message.n, view);
      if (!complete && !this.asked) {
        this.asked = true; // once: a kernel that cannot answer must not be asked ten times a second
        this.model.send({ k: "hello" });
      }
    }
    if (message.m) this.markers.push(...message.m);
    if (message.m || message.k === "all") this.listMarkers();
    if (message.l) {
      this.limits = message.l;
      this.showLimits();
    }
    if (message.s) this.status = message.s;
    if (message.s === "ended") dropQuestion(this.root, this.model.widget_manager);
    if (message.w !== undefined) this.warn(message.w);
    this.redraw();
  }

  say(text, ok) {
    this.message.textContent = text;
    this.message.classList.toggle("nbc-bad", !ok);
  }

  // Seen as long as it holds; spoken when it is new, and not each time that memory falls and grows again.
  warn(text) {
    if (this.warning.textContent === text) return;
    this.warning.textContent = text;
    const now = Date.now();
    if (!text || (text === this.alert.textContent && now - this.alertedAt < ALERT_MILLISECONDS)) return;
    this.alert.replaceChildren(text);
    this.alertedAt = now;
  }

  // What is in the list already stays: it would be spoken again.
  listMarkers() {
    const listed = this.markers.filter(describeMarker);
    listed.forEach((marker, i) => {
      const text = describeMarker(marker);
      const item = this.events.children[i] || this.events.appendChild(element("li", {}, element("i", { "aria-hidden": "true" }), element("span")));
      if (item.lastChild.textContent === text) return;
      item.dataset.kind = marker[1];
      item.firstChild.textContent = GLYPHS[marker[1]] || "•";
      item.lastChild.textContent = text;
    });
    while (this.events.children.length > listed.length) this.events.lastChild.remove();
    this.events.hidden = !listed.length;
    this.events.scrollTop = this.events.scrollHeight;
  }

  // What stays. A page that was loaded again while the cell ran, or came after its end, does not get the cell's outputs any more.
  end({ id, outputs }) {
    this.close();
    try {
      if (keepOutputs(this.model.widget_manager, id, outputs)) return;
    } catch {
      // Another front end, with another model of its notebooks.
    }
    const [{ data, metadata }] = outputs;
    this.root.replaceChildren(element("img", { alt: metadata["image/png"].alt, src: `data:image/png;base64,${data["image/png"]}` }));
  }

  silentNow() {
    return this.status !== "ended" && Date.now() - this.heardAt > 1000 * Math.max(SILENT_SECONDS, 3 * (this.config.interval || 0));
  }

  showStatus() {
    const paused = this.status === "paused";
    const seconds = this.rows.last ? ` · ${this.rows.last.seconds.toFixed(1)} s` : "";
    const silent = this.silentNow();
    if (silent !== this.silent) {
      this.silent = silent;
      if (silent) this.say(NO_NEWS, false);
      else if (this.message.textContent === NO_NEWS) this.say("", true);
    }
    this.state.textContent = `${silent ? "no news" : this.status}${seconds}`;
    this.dot.dataset.status = silent ? "unknown" : this.status;
    if (this.pauseButton.textContent !== (paused ? "Resume" : "Pause")) this.pauseButton.textContent = paused ? "Resume" : "Pause";
    if (this.status === "ended") {
      for (const input of this.root.querySelectorAll("button, .nbc-limits input")) input.disabled = true;
    }
  }

  // ---- hover and keys

  hover(index) {
    this.index = index;
    this.redraw();
  }

  get hovered() {
    return this.index === null || this.index === undefined ? null : this.rows.rows[Math.min(this.index, this.rows.rows.length - 1)];
  }

  onKey(event) {
    const last = this.rows.rows.length - 1;
    const now = this.index ?? last;
    const wanted = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 0, End: last, Escape: null }[event.key];
    if (wanted === undefined || last < 0) return;
    event.preventDefault();
    this.hover(wanted === null ? null : Math.max(0, Math.min(last, wanted)));
    const shown = this.charts.filter((chart) => !chart.root.hidden).map((chart) => chart.definition);
    const here = this.markers.filter(([seconds, kind]) => kind !== "start" && this.rows.at(seconds) === this.index);
    this.readout.textContent = this.hovered ? describeRow(this.hovered, shown, this.limits, here.map(describeMarker)) : "";
  }

  // ---- drawing

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  colours() {
    const style = getComputedStyle(this.root);
    const named = Object.fromEntries(["blue", "green", "orange", "red", "purple", "grey", "host", "grid", "faint", "text", "back"].map((name) => [name, style.getPropertyValue(`--nbc-${name}`).trim() || "#888"]));
    return { ...named, font: style.fontFamily };
  }

  draw() {
    if (!this.root.isConnected) return;
    this.showStatus();
    this.span = Math.max(2, this.rows.last ? this.rows.last.seconds : 0, ...this.markers.map((marker) => marker[0]));
    this.paddingRight = PADDING.right + (this.showHost ? HOST_SCALE_WIDTH : 0);
    this.topChart = this.charts.find((chart) => !chart.root.hidden);
    const colours = this.colours();
    for (const chart of this.charts) chart.draw(colours);
    const { last } = this.rows;
    if (last && Math.floor(last.seconds) !== this.spoken) {
      this.spoken = Math.floor(last.seconds);
      for (const chart of this.charts) chart.canvas.setAttribute("aria-label", `${chart.definition.label} over time. ${describeRow(last, [chart.definition], this.limits)}`);
    }
  }

  close() {
    clearInterval(this.watch);
    this.model.off("msg:custom", this.onMessage);
    this.resize.disconnect();
    this.theme.disconnect();
    if (this.frame) cancelAnimationFrame(this.frame);
  }
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    el.append(root);
    const panel = new Panel(model, root);
    panel.showLimits();
    if (model.get("config").note) panel.message.textContent = model.get("config").note;
    return () => panel.close();
  },
};
