// One edit, from the data that is in the page.

const data = JSON.parse(byId("data").textContent);
const main = byId("main");

function section(title, ...children) {
  const id = title.toLowerCase().replace(/[^a-z]+/g, "-");
  return make("section", { "aria-labelledby": id }, make("h2", { id }, title), ...children);
}

function picture(name, alt, words, className = null) {
  const image = make("img", { src: linkTo(name), alt, loading: "lazy" });
  return make("figure", { class: className }, image, make("figcaption", {}, ...words));
}

const small = (words) => make("span", { class: "soft num" }, words);
const stageName = (stage) => `Stage ${stage.index + 1}`;

function head() {
  document.title = `${data.id}: edit`;
  byId("title").textContent = data.id;
  byId("prompt").textContent = promptOf(data.prompt);
  byId("facts").textContent = [
    `${data.size[1]} × ${data.size[0]} pixels`,
    `seed ${data.seed}`,
    data.scores ? `score ${data.scores[data.chosen].toFixed(2)}` : null,
    `${duration(data.seconds.work)} of work`,
    `${data.changed_samples.toLocaleString("en")} samples changed`,
  ].filter(Boolean).join(" · ");
}

function beforeAndAfter() {
  if (!data.view) {
    return section("Before and after", make("img", { class: "plain", src: "previews/edit.png", alt: "Before, mask, after" }));
  }
  const view = viewer(data);
  const { seams, tiles } = data.view;
  const notes = [];
  if (!tiles.complete) {
    notes.push(make("p", { class: "soft" }, "The part is large: its own pixels are here for the edge of the mask and as much around it as fits; elsewhere it is shown smaller."));
  }
  if (seams.overall === null) {
    notes.push(make("p", { class: "soft" }, "No segment begins or ends inside the mask, so there is no seam to measure."));
  } else {
    notes.push(make("p", {}, `Seams: differences across the borders of segments are ${seams.overall.toFixed(2)} times those beside them. `, small("About 1 where nothing shows; thin green lines are below 1.2, yellow ones below 1.6, thick red ones above.")));
    const worst = seams.pieces.slice(0, 5).map((piece) => make("li", {}, make("button", {
      type: "button", onclick: () => view.lookAt(piece),
    }, `${piece[4].toFixed(2)} at x ${piece[1]}, y ${piece[0]}`)));
    notes.push(make("p", { class: "soft" }, `The largest of ${counted(seams.measured, "piece")}:`), make("ul", { class: "list" }, ...worst));
  }
  const keys = make("p", { class: "soft keys" });
  for (const [key, words] of [["[", ""], ["]", "slider"], ["+", ""], ["-", "zoom"], ["0", "fit"], ["1", "every pixel"], ["m", "mask"], ["s", "seams"]]) {
    keys.append(make("kbd", {}, key), ` ${words} `);
  }
  return section("Before and after", view.element, keys, ...notes);
}

function candidates() {
  if (!data.candidates.length) return null;
  const figures = data.candidates.map((name, sample) => {
    const chosen = sample === data.chosen;
    const words = [`Candidate ${sample + 1}`, chosen ? make("strong", {}, " · chosen") : null, make("br"),
      small(data.scores ? `score ${data.scores[sample].toFixed(2)}` : "not scored")];
    return picture(name, `Candidate ${sample + 1}`, words.filter(Boolean), chosen ? "chosen" : null);
  });
  return section("Candidates", make("div", { class: "figures" }, ...figures));
}

function stages() {
  const figures = data.stages.map((stage) => picture(stage.preview, stageName(stage), [
    make("strong", {}, stageName(stage)), make("br"),
    small(`${stage.size[1]} × ${stage.size[0]}, ${counted(stage.segments, "segment")}`),
  ]));
  return section("Stages", make("div", { class: "figures wide" }, ...figures));
}

// -- charts

function losses() {
  const charts = data.stages.filter((stage) => stage.losses && stage.losses.length).map((stage) => make(
    "div", {}, make("h3", {}, stageName(stage)), curve(stage.losses, `${stageName(stage)}: loss`),
    make("p", { class: "soft num" }, `${compact(stage.losses[0])} → ${compact(stage.losses.at(-1))} in ${counted(stage.losses.length, "step")}`),
  ));
  return charts.length ? section("Decoder optimization", make("div", { class: "charts" }, ...charts)) : null;
}

const compact = (value) => Number(value.toPrecision(3)).toString();

function curve(values, label) {
  const [width, height, left, foot] = [320, 150, 46, 20];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const logarithmic = least > 0 && most / least > 20;
  const low = logarithmic ? least : 0;
  const up = (value) => (logarithmic ? Math.log(value / low) / Math.log(most / low) : (value - low) / (most - low || 1));
  const x = (step) => left + (width - left - 6) * (values.length > 1 ? step / (values.length - 1) : 0.5);
  const y = (value) => 8 + (height - foot - 8) * (1 - up(value));
  const words = `${label} from ${compact(values[0])} to ${compact(values.at(-1))} in ${counted(values.length, "step")}${logarithmic ? ", logarithmic" : ""}`;
  const points = values.map((value, step) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return draw(
    "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    draw("title", {}, words),
    draw("path", { class: "axis", d: `M${left} 8V${height - foot}H${width}` }),
    draw("text", { x: left - 6, y: 14, "text-anchor": "end" }, compact(most)),
    draw("text", { x: left - 6, y: height - foot, "text-anchor": "end" }, compact(low)),
    draw("text", { x: left, y: height - 4 }, "step 1"),
    draw("text", { x: width - 2, y: height - 4, "text-anchor": "end" }, String(values.length)),
    draw("polyline", { class: "curve", points }),
    draw("circle", { class: "dot", cx: x(values.length - 1), cy: y(values.at(-1)), r: 3.5 }),
  );
}

const KINDS = { denoise: "diffusion", fit: "decoder optimization", decode: "decoding", compose: "composing", driver: "driver" };

function times() {
  const rows = data.stages.map((stage, index) => ({ name: stageName(stage), parts: data.seconds.stages[index] }));
  for (const [name, words] of [["ingest", "Taking in"], ["preview", "Previews"], ["export", "Writing"]]) {
    if (name in data.seconds.driver) rows.push({ name: words, parts: { driver: data.seconds.driver[name] } });
  }
  const total = (row) => Object.values(row.parts).reduce((a, b) => a + b, 0);
  const most = Math.max(...rows.map(total), 1e-3);
  const chart = make("div", { class: "times" });
  for (const row of rows) {
    let x = 0;
    const words = Object.entries(row.parts).map(([kind, seconds]) => `${KINDS[kind]} ${duration(seconds)}`).join(", ");
    const bars = Object.entries(row.parts).map(([kind, seconds]) => {
      const bar = draw("rect", { class: kind, x, y: 0, width: (1000 * seconds) / most, height: 20 }, draw("title", {}, `${KINDS[kind]}: ${duration(seconds)}`));
      x += (1000 * seconds) / most;
      return bar;
    });
    chart.append(
      make("span", {}, row.name),
      draw("svg", { viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": `${row.name}: ${words}` }, ...bars),
      make("span", { class: "num right" }, duration(total(row))),
    );
  }
  const used = Object.keys(KINDS).filter((kind) => rows.some((row) => kind in row.parts));
  const legend = make("div", { class: "legend" }, ...used.map((kind) => make("span", { class: kind }, KINDS[kind])));
  const cells = (row) => used.map((kind) => make("td", { class: "num" }, kind in row.parts ? duration(row.parts[kind]) : ""));
  const table = make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, ""), ...used.map((kind) => make("th", { scope: "col", class: "num" }, KINDS[kind])))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...cells(row)))));
  return section("Time", make("p", { class: "soft" }, `${duration(data.seconds.work)} of work, added up over workers and the driver.`),
    chart, legend, make("details", {}, make("summary", {}, "As a table"), make("div", { class: "scroll" }, table)));
}

// -- how to do it again

function command(words) {
  const code = make("pre", { tabindex: 0 }, words);
  const copy = make("button", { type: "button", onclick: async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(words);
      copy.textContent = "Copied";
    } catch { // what is selected can be copied by hand
      copy.textContent = "Selected";
    }
  } }, "Copy");
  return make("div", { class: "command" }, code, copy);
}

function again() {
  const rows = data.record.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  const options = Object.entries(data.method).map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "num" }, String(value))));
  return section("Do it again",
    ...data.commands.map(command),
    make("p", {}, "Records: ", make("a", { href: "edit.json" }, "edit.json"), ", ", make("a", { href: "../run.json" }, "run.json"), ", ", make("a", { href: "../report.json" }, "report.json")),
    make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...rows))),
    make("details", {}, make("summary", {}, "Options of the method"), make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...options)))));
}

head();
main.append(...[beforeAndAfter(), candidates(), stages(), losses(), times(), again()].filter(Boolean));
