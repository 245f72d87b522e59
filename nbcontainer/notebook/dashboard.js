// All containers in one table: rows come once a second, and every text goes through textContent.

const COLUMNS = ["Container", "Program", "CPU", "", "Memory", "", "Processes", "Age"];

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

// What a row says in each column; null is a place for a sparkline.
export function cells(row) {
  const cpu = row.cpu === null ? "–" : `${Math.round(row.cpu)} %`;
  return [
    row.status === "paused" ? `${row.name} (paused)` : row.name, row.command, row.cpus ? `${cpu} of ${Math.round(100 * row.cpus)} %` : cpu, null,
    row.limit ? `${formatBytes(row.memory)} of ${formatBytes(row.limit)}` : formatBytes(row.memory), null,
    row.pids === null ? "–" : String(row.pids), formatAge(row.age),
  ];
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
  const style = getComputedStyle(table.parentElement);
  const [blue, green, red] = ["--nbc-blue", "--nbc-green", "--nbc-red"].map((name) => style.getPropertyValue(name).trim());
  rows.forEach((row, index) => {
    const line = body.rows[index] || body.insertRow();
    cells(row).forEach((text, column) => {
      const cell = line.cells[column] || line.insertCell();
      if (text !== null) {
        if (cell.textContent !== text) cell.textContent = text;
        return;
      }
      const canvas = cell.firstChild || cell.appendChild(document.createElement("canvas"));
      canvas.setAttribute("role", "img");
      if (column === 3) sparkline(canvas, row.cpuHistory, row.cpus && 100 * row.cpus, blue, red);
      else sparkline(canvas, row.memoryHistory, row.limit, green, red);
      canvas.setAttribute("aria-label", column === 3 ? "CPU over the last minute" : "memory over the last minute");
    });
    line.title = `${row.id}, of the kernel with process id ${row.kernel}`;
  });
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    root.className = "nbc-panel nbc-dashboard";
    const table = document.createElement("table");
    table.createCaption().textContent = "Running containers";
    const head = table.createTHead().insertRow();
    for (const name of COLUMNS) head.appendChild(document.createElement("th")).textContent = name;
    table.createTBody();
    const empty = document.createElement("div");
    empty.textContent = "No container is running.";
    root.append(table, empty);
    el.append(root);
    const onMessage = (message) => message.k === "rows" && show(table, empty, message.rows);
    model.on("msg:custom", onMessage);
    model.send({ k: "hello" });
    return () => model.off("msg:custom", onMessage);
  },
};
