"""The live view as an image, for front ends with ipywidgets but without anywidget: only what moves is drawn anew."""

from __future__ import annotations

import base64
import io
from typing import Any

import ipywidgets

from nbcontainer.notebook.figure import BLUE, GREEN, GREY, MIB, ORANGE, VERMILION
from nbcontainer.notebook.panel import leave_open
from nbcontainer.notebook.view import View
from nbcontainer.units import format_size

COLOURS = 32
POINTS = 300


class BlittedImage:
    """``draw`` takes some 4 ms; axes and texts are drawn again only when a scale has to grow or a limit changes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._scale: tuple[Any, ...] = ()
        self.widget = ipywidgets.Image(format="png")
        self.draw()

    def draw(self) -> None:
        rows = self._view.all_rows()
        rows = rows[:: max(1, len(rows) // POINTS)] if rows else rows
        if not rows:
            return
        limits = self._view.limits
        highest = max(row.memory_bytes for row in rows) / MIB
        limit = (limits.memory_bytes or 0) / MIB
        top = limit if limit and limit <= 4 * highest else _round_up(highest)
        busiest = max(row.cpu_percent for row in rows)
        quota = 100 * (limits.cpus or 0.0)
        scale = (_round_up(rows[-1].seconds), top * 1.12, max(_round_up(busiest), quota) * 1.12, limits)
        if scale != self._scale:
            self._background(scale)
        self._canvas.restore_region(self._clean)
        seconds = [row.seconds for row in rows]
        self._usage.set_data(seconds, [row.memory_bytes / MIB for row in rows])
        self._working_set.set_data(seconds, [row.working_set_bytes / MIB for row in rows])
        self._cpu.set_data(seconds, [row.cpu_percent for row in rows])
        for line in (self._usage, self._working_set, self._cpu):
            line.axes.draw_artist(line)
        self.widget.value = self._png()

    def _background(self, scale: tuple[Any, ...]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._scale = scale
        seconds, memory_top, cpu_top, limits = scale
        figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
        canvas_class: Any = FigureCanvasAgg
        self._canvas = canvas_class(figure)
        memory, cpu = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for axes, label, top in ((memory, "memory (MiB)", memory_top), (cpu, "CPU (% of a core)", cpu_top)):
            axes.set(xlim=(0, seconds), ylim=(0, top), ylabel=label)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        if limits.memory_bytes:
            memory.axhline(limits.memory_bytes / MIB, color=VERMILION, linestyle="--")
        if limits.memory_high_bytes:
            memory.axhline(limits.memory_high_bytes / MIB, color=ORANGE, linestyle="-.")
        if limits.cpus:
            cpu.axhline(100 * limits.cpus, color=VERMILION, linestyle="--")
        cpu.set_xlabel("seconds")
        (self._usage,) = memory.plot([], [], color=BLUE, animated=True)
        (self._working_set,) = memory.plot([], [], color=GREEN, linestyle=":", animated=True)
        (self._cpu,) = cpu.plot([], [], color=BLUE, animated=True)
        memory.set_title(f"usage (line), working set (dots){_limit(limits.memory_bytes, memory_top)}", fontsize=8, color=GREY, loc="left")
        self._canvas.draw()
        self._clean = self._canvas.copy_from_bbox(figure.bbox)

    def _png(self) -> bytes:
        from PIL import Image

        width, height = self._canvas.get_width_height()
        pixels = Image.frombuffer("RGBA", (width, height), self._canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        buffer = io.BytesIO()
        pixels.convert("RGB").quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    def end(self, png: str) -> None:
        """``png``: the figure that stays, base64; a page that was loaded again has only this image."""
        if not png:
            self.close()
            return
        self.widget.value = base64.b64decode(png)
        leave_open(self.widget)

    def close(self) -> None:
        self.widget.close()


def _limit(size_bytes: int | None, top: float) -> str:
    """In the heading: also where it is far above what is drawn."""
    if not size_bytes:
        return ""
    return f", limit {format_size(size_bytes)} ({'above' if size_bytes / MIB > top else 'dashes'})"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ... above, so that scales do not change with every frame."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    return next(step * power for step in (1, 2, 5, 10, 20) if step * power >= value)
