"use strict";
// The life of a chart: its figure stands in the page; its data, from the page's JSON, is drawn with Plotly in the
// colours of the style sheet, and drawn again when the reader changes between light and dark.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const SMOOTHED_FROM = 60; // points; from there on the raw curve is faint under its moving average
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash"];
  const STROKES = { solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "9 4", longdashdot: "9 3 2 3" };
  const touch = matchMedia("(pointer: coarse)").matches;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faded = (hex, opacity) => hex + Math.round(opacity * 255).toString(16).padStart(2, "0");

  const shown = (unit, value) => {
    if (value === null || value === undefined) return "none";
    if (unit === "share") return (100 * value).toFixed(Math.abs(value) < 0.1 ? 1 : 0) + "%";
    const size = Math.abs(value);
    const text = size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : Number(value.toPrecision(2)).toString();
    return text.replace("-", "\u2212") + (unit === "seconds" ? " s" : "");
  };

  const averaged = (y) => {
    const half = Math.max(1, Math.round(y.length / 40));
    return y.map((_, place) => {
      const near = y.slice(Math.max(0, place - half), place + half + 1).filter((value) => value !== null);
      return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
    });
  };

  const style = (series, number) => {
    const team = series.team === undefined ? -1 : data.teams.indexOf(series.team);
    return { colour: colour(team < 0 ? `--series-${number % 8}` : `--team-${team % 4}`), dash: DASHES[number % 8] };
  };

  const traces = (chart, hidden) => chart.series.flatMap((series, number) => {
    const { colour: line, dash } = style(series, number);
    const label = series.y.map((value, place) => shown(chart.unit, value) +
      (series.low && series.low[place] !== null ? ` (${shown(chart.unit, series.low[place])} to ${shown(chart.unit, series.high[place])})` : ""));
    const trace = {
      x: chart.x, y: series.y, name: series.name, text: label, visible: !hidden.has(number), connectgaps: false,
      mode: chart.x.length < 41 ? "lines+markers" : "lines", hovertemplate: "%{text}",
      line: { color: line, dash, width: 2 }, marker: { color: line, size: 5 },
    };
    if (series.low) {
      const above = (bound, sign) => bound.map((value, place) => value === null || series.y[place] === null ? 0 : sign * (value - series.y[place]));
      trace.error_y = { type: "data", symmetric: false, array: above(series.high, 1), arrayminus: above(series.low, -1), color: faded(line, 0.45), thickness: 1.5, width: 0 };
    }
    if (chart.x.length <= SMOOTHED_FROM) return [trace];
    const smooth = { ...trace, y: averaged(series.y), hoverinfo: "skip", hovertemplate: undefined };
    return [{ ...trace, line: { color: faded(line, 0.3), width: 1 } }, smooth];
  });

  const layout = (chart) => {
    const ink = colour("--soft"), line = colour("--line");
    const span = chart.x.length ? chart.x[chart.x.length - 1] - chart.x[0] : 0;
    const axis = { gridcolor: line, zeroline: false, tickfont: { size: 11 }, fixedrange: touch, linecolor: line, automargin: true };
    return {
      margin: { l: 8, r: 10, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink }, dragmode: touch ? false : "zoom",
      hovermode: "x unified", hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: colour("--ink"), size: 12 } },
      xaxis: { ...axis, showgrid: false, ...(span < 8 ? { dtick: 1 } : { nticks: 7 }), tickformat: ",d", hoverformat: ",d", unifiedhovertitle: { text: "iteration %{x}" } },
      yaxis: { ...axis, nticks: 5, rangemode: chart.unit === "number" ? "normal" : "tozero", ...(chart.unit === "share" ? { tickformat: ".2~%" } : {}) },
    };
  };

  const legend = (figure, chart, hidden, draw) => {
    const place = figure.querySelector(".legend");
    place.replaceChildren();
    if (chart.series.length < 2) return;
    chart.series.forEach((series, number) => {
      const button = document.createElement("button"), { colour: line, dash } = style(series, number);
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
      for (const [name, value] of Object.entries({ x1: 0, x2: 24, y1: 5, y2: 5, stroke: line, "stroke-width": 2.5, "stroke-dasharray": STROKES[dash] }))
        stroke.setAttribute(name, value);
      swatch.setAttribute("viewBox", "0 0 24 10");
      swatch.setAttribute("aria-hidden", "true");
      swatch.append(stroke);
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(number)));
      button.append(swatch, `${series.name} ${shown(chart.unit, series.y.findLast((value) => value !== null))}`);
      button.addEventListener("click", () => {
        hidden.has(number) ? hidden.delete(number) : hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        draw();
      });
      place.append(button);
    });
  };

  const described = (chart) => `${chart.title}, iteration ${chart.x[0]} to ${chart.x[chart.x.length - 1]}: ` +
    chart.series.map((series) => {
      const there = series.y.filter((value) => value !== null);
      return `${series.name} from ${shown(chart.unit, there[0])} to ${shown(chart.unit, there[there.length - 1])}`;
    }).join("; ");

  const figures = [...document.querySelectorAll(".plot")].map((plot) => {
    const chart = data[plot.dataset.source][plot.dataset.number];
    const hidden = new Set(chart.series.flatMap((series, number) => series.hidden ? [number] : []));
    const draw = () => Plotly.react(plot, traces(chart, hidden), layout(chart), { displayModeBar: false, responsive: true });
    plot.setAttribute("aria-label", described(chart));
    return { plot, draw, legend: () => legend(plot.closest("figure"), chart, hidden, draw) };
  });
  // Drawn when they come near the window: there may be dozens.
  const drawn = new Set();
  const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    const figure = figures.find(({ plot }) => plot === target);
    near.unobserve(target);
    drawn.add(figure);
    figure.draw();
  }), { rootMargin: "800px" });
  figures.forEach((figure) => { figure.legend(); near.observe(figure.plot); });
  addEventListener("beforeprint", () => figures.forEach((figure) => figure.draw()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    figures.forEach((figure) => figure.legend());
    drawn.forEach((figure) => figure.draw());
  });
})();
