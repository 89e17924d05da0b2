"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("chart-data").textContent);
  const config = { displayModeBar: false, responsive: true, typesetMath: false, doubleClick: "reset" };
  const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
  const hasMouse = window.matchMedia("(pointer: fine)");
  const isNarrow = window.matchMedia("(max-width: 640px)");
  const legendRowHeight = 19;
  const drawn = [];
  let isZooming = false;

  // Colours are names of custom properties, so that charts follow the scheme of the page.
  function withColors(value, styles, isColor) {
    if (Array.isArray(value)) {
      return value.map((each) => withColors(each, styles, isColor));
    }
    if (value !== null && typeof value === "object") {
      const copy = {};
      for (const name of Object.keys(value)) {
        copy[name] = withColors(value[name], styles, /color$/.test(name));
      }
      return copy;
    }
    if (isColor && typeof value === "string" && value.startsWith("--")) {
      return styles.getPropertyValue(value).trim();
    }
    return value;
  }

  function draw(key, width) {
    const styles = getComputedStyle(document.documentElement);
    const figure = withColors(figures[key], styles, false);
    figure.layout.dragmode = hasMouse.matches ? "zoom" : false;
    if (figure.layout.xaxis.type !== "date") {
      figure.layout.xaxis.fixedrange = true;
    }
    if (width) {
      figure.layout.width = width;
    } else if (isNarrow.matches) {
      const entries = figure.data.filter((trace) => trace.showlegend !== false).length;
      figure.layout.height += legendRowHeight * entries;
    }
    const place = document.getElementById("chart-" + key);
    place.style.minHeight = figure.layout.height + "px";
    return Plotly.react(place, figure.data, figure.layout, config);
  }

  function drawAll(width) {
    for (const key of drawn) {
      draw(key, width);
    }
  }

  // A part of the time that is enlarged in one chart is enlarged in all of them.
  function linkZoom(key) {
    document.getElementById("chart-" + key).on("plotly_relayout", function (change) {
      const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
      if (isZooming || !(from && to) && !change["xaxis.range"]) {
        return;
      }
      isZooming = true;
      const range = from ? [from, to] : change["xaxis.range"];
      const others = drawn.filter((each) => each !== key && figures[each].layout.xaxis.type === "date");
      Promise.all(others.map((each) => Plotly.relayout("chart-" + each, { "xaxis.range": range.slice() })))
        .finally(() => { isZooming = false; });
    });
  }

  for (const key of Object.keys(figures)) {
    try {
      draw(key);
      drawn.push(key);
      if (figures[key].layout.xaxis.type === "date") {
        linkZoom(key);
      }
    } catch (error) {
      const place = document.getElementById("chart-" + key);
      place.textContent = "The chart could not be drawn. The table below has its figures.";
      place.style.minHeight = "0";
      console.error("chart " + key + ": " + error);
    }
  }

  darkScheme.addEventListener("change", () => drawAll());
  isNarrow.addEventListener("change", () => drawAll());

  // Charts are drawn for the width of the paper, and the tables of the streams are opened.
  let closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details.stream:not([open])"));
    closed.forEach((each) => { each.open = true; });
    document.documentElement.classList.add("printed");
    drawAll(680);
  });
  window.addEventListener("afterprint", function () {
    closed.forEach((each) => { each.open = false; });
    document.documentElement.classList.remove("printed");
    drawAll();
  });
})();
