// Figures on the page: `one` draws a Plot, `several` draws Plots. Plotly's code comes with the widget, from the
// installed plotly; it is evaluated once per page, however many figures there are.

function load(code) {
  const before = "const module = { exports: {} }, exports = module.exports, define = undefined;\n";
  const inside = before + code + "\nexport default module.exports;";
  const address = URL.createObjectURL(new Blob([inside], { type: "text/javascript" }));
  return import(address).then((module) => module.default);
}

const plotly = (model) => (globalThis.pgrpoPlotly ??= load(model.get("library")));
const config = { displayModeBar: false, doubleClick: "reset" };

// One figure, as wide as its place. It is drawn anew when `number` grows, and says where it was clicked.
async function one({ model, el }) {
  const place = document.createElement("div");
  el.classList.add("pgrpo-plot");
  el.style.cssText = "width:100%;overflow-x:auto;overflow-y:hidden";
  el.append(place);
  const Plotly = await plotly(model);
  let width = 0;
  let clicks = 0;

  const listen = () => {
    if (place.dataset.listens) return;
    place.dataset.listens = "yes";
    place.on("plotly_click", (event) => {
      const point = event.points[0];
      clicks += 1;
      model.set("clicked", { x: point.x, y: point.y, trace: point.curveNumber, count: clicks });
      model.save_changes();
    });
  };

  const draw = () => {
    if (!el.clientWidth) return;
    const figure = JSON.parse(model.get("spec"));
    width = el.clientWidth;
    figure.layout.width = Math.max(width, model.get("least"));
    Plotly.react(place, figure.data, figure.layout, config).then(() => {
      place.setAttribute("role", "img");
      place.setAttribute("aria-label", model.get("alt"));
      place.dataset.drawn = model.get("number");
    });
    listen();
  };

  const watch = new ResizeObserver(() => {
    if (el.clientWidth !== width) requestAnimationFrame(draw);
  });
  watch.observe(el);
  model.on("change:number", draw);
  return () => {
    watch.disconnect();
    model.off("change:number", draw);
    Plotly.purge(place);
  };
}

// Panels side by side. One that was drawn before is shown again as it is, unless its place has another width.
async function several({ model, el }) {
  const kept = 24; // drawn panels, shown or hidden
  const places = new Map(); // figure as JSON → where it is drawn; the last shown come last
  el.classList.add("pgrpo-plots");
  el.style.cssText = "display:flex;flex-wrap:wrap;gap:0 8px;width:100%";
  const Plotly = await plotly(model);
  let width = 0;

  const put = ({ spec, height, alt }, i) => {
    const place = places.get(spec) ?? el.appendChild(document.createElement("div"));
    places.delete(spec);
    places.set(spec, place);
    place.style.cssText =
      `display:block;order:${i};flex:1 1 ${model.get("least")}px;min-width:0;height:${height}px;` +
      "overflow:hidden;contain:strict";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", alt);
  };

  const forget = (spec, place) => {
    Plotly.purge(place);
    place.remove();
    places.delete(spec);
  };

  const draw = () => {
    const panels = model.get("panels");
    for (const place of places.values()) place.style.display = "none";
    panels.forEach(put);
    // all widths before the first drawing: a question after it costs a layout of the page
    const widths = panels.map(({ spec }) => places.get(spec).clientWidth);
    panels.forEach(({ spec }, i) => {
      const place = places.get(spec);
      if (!widths[i] || place.width === widths[i]) return;
      const figure = JSON.parse(spec);
      figure.layout.width = place.width = widths[i];
      Plotly.react(place, figure.data, figure.layout, config);
    });
    for (const [spec, place] of [...places].slice(0, -kept)) forget(spec, place);
    el.dataset.drawn = model.get("number");
  };

  const watch = new ResizeObserver(() => {
    if (el.clientWidth === width) return;
    width = el.clientWidth;
    requestAnimationFrame(draw);
  });
  watch.observe(el);
  model.on("change:number", draw);
  return () => {
    watch.disconnect();
    model.off("change:number", draw);
    for (const place of places.values()) Plotly.purge(place);
  };
}

const render = (context) => (context.model.get("panels") ? several(context) : one(context));
export default { render };
