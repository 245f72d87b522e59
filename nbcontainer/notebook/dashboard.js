// All containers in one table: rows come once a second, and every text goes through textContent.

export function formatBytes(bytes) {
  if (bytes === null) return "–";
  for (const [unit, factor] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (bytes >= factor) return `${Math.round((bytes / factor) * 10) / 10} ${unit}`;
  }
  return `${bytes} B`;
}

export function formatAge(seconds) {
  if (seconds < 100) return `${seconds.toFixed(0)} s`;
  return seconds < 6000 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const pair = (one, other) => `${formatBytes(one)} / ${formatBytes(other)}`;
const sum = (one, other) => (one === null || other === null ? null : one + other);
const percent = (number) => (number === null ? "–" : `${Math.round(number)} %`);
const memoryShare = (row) => (row.memory === null || !row.limit ? null : (100 * row.memory) / row.limit);

// As `docker stats` has them: `text` is what a row says, `value` what it is sorted by, `spark` a sparkline below.
export const COLUMNS = [
  { name: "Container", text: (row) => (row.status === "paused" ? `${row.name} (paused)` : row.name), value: (row) => row.name },
  { name: "Program", text: (row) => row.command, value: (row) => row.command },
  {
    name: "CPU", text: (row) => (row.cpus ? `${percent(row.cpu)} of ${percent(100 * row.cpus)}` : percent(row.cpu)), value: (row) => row.cpu,
    spark: (row) => [row.cpuHistory, row.cpus && 100 * row.cpus, "--nbc-blue"], label: "CPU over the last minute",
  },
  {
    name: "Memory", text: (row) => (row.limit ? `${formatBytes(row.memory)} of ${formatBytes(row.limit)}` : formatBytes(row.memory)), value: (row) => row.memory,
    spark: (row) => [row.memoryHistory, row.limit, "--nbc-green"], label: "memory over the last minute",
  },
  { name: "Mem %", text: (row) => percent(memoryShare(row)), value: memoryShare },
  { name: "Net I/O", title: "received / sent", text: (row) => pair(row.received, row.sent), value: (row) => sum(row.received, row.sent) },
  { name: "Block I/O", title: "read / written", text: (row) => pair(row.read, row.written), value: (row) => sum(row.read, row.written) },
  { name: "Processes", text: (row) => (row.pids === null ? "–" : String(row.pids)), value: (row) => row.pids },
  { name: "Age", text: (row) => formatAge(row.age), value: (row) => row.age },
];

// What a row says in each column.
export function cells(row) {
  return COLUMNS.map((column) => column.text(row));
}

// By a column; what is not known comes last, whichever way; what is equal stays in the order in which the containers began.
export function sorted(rows, index, descending) {
  if (index === null) return rows;
  const { value } = COLUMNS[index];
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  };
  return [...rows].sort((a, b) => order(value(a), value(b)));
}

// What a click on a column's name makes of the order: numbers begin with the largest, names with the first; the third click ends it.
export function nextOrder({ index, descending }, clicked) {
  const first = clicked > 1;
  if (index !== clicked) return { index: clicked, descending: first };
  return descending === first ? { index, descending: !first } : { index: null, descending: false };
}

function sparkline(canvas, values, top, colour, limitColour) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [120, 22];
  canvas.width = width * scale;
  canvas.height = height * scale;
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  if (!values.length) return;
  const highest = Math.max(...values, 1e-9);
  const most = top && top <= 4 * highest ? Math.max(top, highest) : highest;
  const x = (i) => width - 2 - ((values.length - 1 - i) * (width - 4)) / 59;
  const y = (value) => height - 2 - ((height - 4) * value) / (most * 1.05);
  g.beginPath();
  values.forEach((value, i) => g[i ? "lineTo" : "moveTo"](x(i), y(value)));
  g.strokeStyle = g.fillStyle = colour;
  g.lineWidth = 1.5;
  g.stroke();
  g.lineTo(x(values.length - 1), height - 1);
  g.lineTo(x(0), height - 1);
  g.globalAlpha = 0.15;
  g.fill();
  if (top && top <= most) {
    g.globalAlpha = 1;
    g.strokeStyle = limitColour;
    g.setLineDash([4, 3]);
    g.beginPath();
    g.moveTo(0, y(top));
    g.lineTo(width, y(top));
    g.stroke();
  }
}

function show(table, empty, rows) {
  const body = table.tBodies[0];
  empty.hidden = rows.length > 0;
  while (body.rows.length > rows.length) body.deleteRow(-1);
  const style = getComputedStyle(table.closest(".nbc-dashboard"));
  const colour = (name) => style.getPropertyValue(name).trim();
  rows.forEach((row, index) => {
    const line = body.rows[index] || body.insertRow();
    cells(row).forEach((text, column) => {
      const cell = line.cells[column] || line.insertCell();
      const words = cell.firstChild || cell.appendChild(document.createElement("span"));
      if (words.textContent !== text) words.textContent = text;
      if (!COLUMNS[column].spark) return;
      const canvas = cell.children[1] || cell.appendChild(document.createElement("canvas"));
      const [history, top, name] = COLUMNS[column].spark(row);
      canvas.setAttribute("role", "img");
      sparkline(canvas, history, top, colour(name), colour("--nbc-red"));
      canvas.setAttribute("aria-label", COLUMNS[column].label);
    });
    line.title = `${row.id}, of the kernel with process id ${row.kernel}`;
  });
}

// The column names: buttons, so that keys reach them. Screen readers know the order by aria-sort.
function heads(table, onClick) {
  const head = table.createTHead().insertRow();
  const made = COLUMNS.map((column, index) => {
    const cell = head.appendChild(document.createElement("th"));
    cell.scope = "col";
    const button = cell.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = column.name;
    button.title = column.title ? `${column.title}; sort by it` : "sort by it";
    button.addEventListener("click", () => onClick(index));
    return cell;
  });
  return (order) =>
    made.forEach((cell, index) => {
      if (index === order.index) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    root.className = "nbc-panel nbc-dashboard";
    // Else Enter on a column's name edits the cell, in JupyterLab: older ones look for the attribute.
    root.setAttribute("data-lm-suppress-shortcuts", "true");
    root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
    const table = document.createElement("table");
    table.createCaption().textContent = "Running containers";
    let [rows, order] = [[], { index: null, descending: false }];
    const draw = () => show(table, empty, sorted(rows, order.index, order.descending));
    const mark = heads(table, (index) => {
      order = nextOrder(order, index);
      mark(order);
      draw();
    });
    table.createTBody();
    const empty = document.createElement("div");
    empty.textContent = "No container is running.";
    root.append(table, empty);
    el.append(root);
    const onMessage = (message) => {
      if (message.k !== "rows") return;
      rows = message.rows;
      draw();
    };
    model.on("msg:custom", onMessage);
    model.send({ k: "hello" });
    return () => model.off("msg:custom", onMessage);
  },
};
