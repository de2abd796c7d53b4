// Line charts over time, drawn by uPlot, which is loaded with the first of them.
import { html, useEffect, useRef, useState } from "./base.js";
import { compact } from "./format.js";

const HEIGHT = 132;
let library;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function useThemeCount() {
  const [count, set] = useState(0);
  useEffect(() => {
    const change = () => set((before) => before + 1);
    addEventListener("themechange", change);
    return () => removeEventListener("themechange", change);
  }, []);
  return count;
}

const two = (value) => String(value).padStart(2, "0");

/** Hours and minutes; at midnight the day. */
function clock(seconds) {
  const date = new Date(seconds * 1000);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return time === "00:00" ? `${date.getDate()} ${date.toLocaleString(undefined, { month: "short" })}` : time;
}

/** The points that have no neighbour, so no line: they are drawn as dots. */
function lonely(plot, index) {
  const values = plot.data[index];
  const has = (at) => values[at] !== null && values[at] !== undefined;
  return [...values.keys()].filter((at) => has(at) && !has(at - 1) && !has(at + 1));
}

function options({ series, format, width, sync }) {
  const grid = { stroke: color("line"), width: 1 };
  const axis = { stroke: color("dim"), font: "11px system-ui", grid, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    cursor: { sync: { key: sync }, y: false, points: { size: 6 } },
    legend: { live: true },
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, space: 70, size: 26, values: (_, ticks) => ticks.map(clock) },
      { ...axis, size: 54, space: 30, values: (_, ticks) => ticks.map((tick) => format(tick)) },
    ],
    series: [
      { label: "time", value: (_, value) => (value === null || value === undefined ? "–" : clock(value)) },
      ...series.map(({ label, tone, fill }) => ({
        label,
        stroke: color(tone),
        fill: fill ? `${color(tone)}22` : undefined,
        width: 1.5,
        spanGaps: false,
        points: { show: true, size: 4, fill: color(tone), filter: lonely },
        value: (_, value) => (value === null || value === undefined ? "–" : format(value)),
      })),
    ],
  };
}

/**
 * One chart. times: seconds since 1970; series: [{ label, tone (a colour of the style sheet), values, fill }].
 */
export function Chart({ title, times, series, format = compact, sync = "charts", note }) {
  const box = useRef();
  const plot = useRef();
  const themes = useThemeCount();
  const data = [times, ...series.map((one) => one.values)];
  const latest = useRef();
  latest.current = data;
  const shape = series.map((one) => one.label).join("\n");
  useEffect(() => {
    let over = false;
    let watch;
    const begin = async () => {
      library ??= import("./vendor/uplot.js");
      const { default: Plot } = await library;
      if (over || !box.current) return;
      plot.current = new Plot(options({ series, format, sync, width: box.current.clientWidth }), latest.current, box.current);
      watch = new ResizeObserver(([seen]) => seen.contentRect.width && plot.current?.setSize({ width: seen.contentRect.width, height: HEIGHT }));
      watch.observe(box.current);
    };
    begin();
    return () => {
      over = true;
      watch?.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [shape, themes]);
  useEffect(() => plot.current?.setData(data), [times, series]);
  return html`<figure class="chart">
    <figcaption><span>${title}</span>${note && html`<span class="dim">${note}</span>`}</figcaption>
    <div ref=${box} role="img" aria-label=${summary(title, series, format)}></div>
  </figure>`;
}

function summary(title, series, format) {
  const last = series.map(({ label, values }) => `${label} ${format(values.findLast((value) => value !== null && value !== undefined) ?? 0)}`);
  return `${title}, most recently: ${last.join(", ")}`;
}
