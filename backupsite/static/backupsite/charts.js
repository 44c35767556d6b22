// Charts by uPlot: <div class="chart" data-chart="ID"> draws what the JSON script of that id says. The numbers stand in a
// table beside it, too. JSON: kind (area, line, bars, or steps: each value holds until the next day that is told), unit (bytes or count), days (ISO dates), series of label and
// values (null: nothing is known). Colours come from the page, so that light and dark are right.
(() => {
  "use strict";
  const HEIGHT = 200;
  const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const COLOURS = ["--tblr-primary", "--tblr-orange", "--tblr-green", "--tblr-red"];
  const POWERS = Array.from({ length: 60 }, (_, power) => 2 ** power);
  const drawn = new Map();

  const bytes = (value) => {
    let amount = value;
    let unit = 0;
    while (amount >= 1024 && unit < UNITS.length - 1) {
      amount /= 1024;
      unit += 1;
    }
    return `${unit === 0 || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${UNITS[unit]}`;
  };
  const written = (unit) => (value) => (value == null ? "–" : unit === "bytes" ? bytes(value) : value.toLocaleString("en"));
  // What a canvas understands: the page's variables may hold more than that.
  const computed = (value) => {
    const probe = document.body.appendChild(document.createElement("span"));
    probe.style.color = value;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const colour = (name) => computed(`var(${name})`);
  const faint = (name) => computed(`color-mix(in srgb, var(${name}) 25%, transparent)`);

  const pathsOf = (kind) => {
    if (kind === "bars") return uPlot.paths.bars({ size: [0.7, 40] });
    return kind === "steps" ? uPlot.paths.stepped({ align: 1 }) : undefined;
  };
  const seriesOf = (told, format) =>
    told.series.map((one, place) => ({
      label: one.label,
      stroke: colour(COLOURS[place % COLOURS.length]),
      fill: told.kind === "line" ? undefined : faint(COLOURS[place % COLOURS.length]),
      width: 2,
      paths: pathsOf(told.kind),
      value: (_, value) => format(value),
    }));
  const optionsOf = (told, width) => {
    const format = written(told.unit);
    const axis = { stroke: colour("--tblr-body-color"), grid: { stroke: colour("--tblr-border-color"), width: 1 } };
    return {
      width,
      height: HEIGHT,
      // Days are those of UTC, wherever somebody looks from.
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { y: { range: (_, low, high) => [Math.min(0, low), Math.max(high, 1) * 1.05] } },
      axes: [
        { ...axis, values: (_, marks) => marks.map((mark) => new Date(mark * 1000).toISOString().slice(5, 10)), incrs: [1, 2, 7, 14, 30, 90, 365].map((days) => days * 86400) },
        { ...axis, size: 76, values: (_, marks) => marks.map(format), incrs: told.unit === "bytes" ? POWERS : undefined },
      ],
      series: [{ label: "Day", value: (_, seconds) => (seconds == null ? "–" : new Date(seconds * 1000).toISOString().slice(0, 10)) }, ...seriesOf(told, format)],
    };
  };

  const draw = (place) => {
    const told = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    if (told.days.length < 2) return;
    drawn.get(place)?.destroy();
    const data = [told.days.map((day) => Date.parse(`${day}T00:00:00Z`) / 1000), ...told.series.map((one) => one.values)];
    drawn.set(place, new uPlot(optionsOf(told, place.clientWidth), data, place));
  };
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const chart = drawn.get(target);
      if (chart && target.clientWidth && chart.width !== target.clientWidth) chart.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  });
  const start = (root) => {
    for (const place of root.querySelectorAll("[data-chart]")) {
      if (drawn.has(place)) continue;
      draw(place);
      widths.observe(place);
    }
  };
  const again = () => {
    for (const place of [...drawn.keys()]) {
      if (place.isConnected) draw(place);
      else drawn.delete(place);
    }
  };

  start(document);
  // What htmx brought later; and light or dark.
  document.addEventListener("htmx:load", (event) => start(event.target));
  document.addEventListener("themechange", again);
})();
