// Before and after in one canvas: tiles of a pyramid, a slider between them, zoom to 1:1.

const CACHE = 400; // tiles that are kept in memory
const MAX_SCALE = 16; // screen pixels per picture pixel

function viewer(data) {
  const { tiles, outline, seams } = data.view;
  const [top, left, bottom, right] = tiles.box;
  const [width, height] = [right - left, bottom - top];
  const there = new Map(tiles.tiles.map(([level, row, column, after]) => [`${level}/${row}-${column}`, after]));
  const images = new Map();
  const shown = { outline: true, seams: false };
  // scale: screen pixels per picture pixel; x, y: what is in the middle, in pixels of the box
  const at = { scale: 1, x: width / 2, y: height / 2, split: 0.5, fit: true };
  let scheduled = false;

  const canvas = make("canvas", {
    tabindex: 0, role: "img",
    "aria-label": "The edited part, before on the left and after on the right of the slider. Arrow keys move, + and - zoom, 0 fits, 1 shows every pixel.",
  });
  const pen = canvas.getContext("2d");
  canvas.style.aspectRatio = `${width} / ${height}`; // no higher than it shows, up to what fits the window
  const slider = make("input", { type: "range", min: 0, max: 1000, value: 500, step: 1, "aria-label": "Slider between before and after" });
  const zoom = make("output", { class: "num", "aria-live": "polite" });
  const place = make("p", { class: "place num" });
  const button = (words, label, onclick) => make("button", { type: "button", "aria-label": label, title: label, onclick }, words);
  const toggle = (words, key) => {
    const one = make("button", { type: "button", "aria-pressed": shown[key], onclick: () => {
      shown[key] = !shown[key];
      one.setAttribute("aria-pressed", shown[key]);
      redraw();
    } }, words);
    return one;
  };
  const outlineButton = toggle("Mask outline", "outline");
  const seamsButton = seams.pieces.length ? toggle("Seams", "seams") : null;

  const element = make(
    "div", { class: "viewer" }, canvas, place,
    make("div", { class: "bar" },
      make("label", { class: "slide" }, make("span", {}, "Before"), slider, make("span", {}, "After")),
      button("Fit", "Show all of the edited part (0)", fit),
      button("1:1", "Show every pixel (1)", () => exact()),
      button("−", "Smaller (-)", () => zoomBy(1 / 2)),
      button("+", "Larger (+)", () => zoomBy(2)),
      zoom, outlineButton, seamsButton),
  );

  // -- where things are: picture pixels of the box to screen pixels

  const origin = () => ({
    x: Math.round(canvas.width / 2 - at.x * at.scale),
    y: Math.round(canvas.height / 2 - at.y * at.scale),
  });
  const fitting = () => Math.min(canvas.width / width, canvas.height / height, MAX_SCALE);

  function fit() {
    Object.assign(at, { scale: fitting(), x: width / 2, y: height / 2, fit: true });
    redraw();
  }

  function exact(x = null, y = null) {
    if (x === null && at.fit) {
      const [y0, x0, y1, x1] = data.view.edited;
      [x, y] = [(x0 + x1) / 2 - left, (y0 + y1) / 2 - top];
    }
    Object.assign(at, { scale: 1, x: x ?? at.x, y: y ?? at.y, fit: false });
    redraw();
  }

  function zoomBy(factor, x = canvas.width / 2, y = canvas.height / 2) {
    const least = Math.min(fitting(), 1);
    const scale = Math.min(MAX_SCALE, Math.max(least, at.scale * factor));
    const zero = origin();
    const [px, py] = [(x - zero.x) / at.scale, (y - zero.y) / at.scale];
    at.x = px - (x - canvas.width / 2) / scale;
    at.y = py - (y - canvas.height / 2) / scale;
    at.scale = scale;
    at.fit = scale === fitting();
    redraw();
  }

  function moveBy(dx, dy) {
    at.x -= dx / at.scale;
    at.y -= dy / at.scale;
    redraw();
  }

  function splitAt(share) {
    at.split = Math.min(1, Math.max(0, share));
    slider.value = Math.round(at.split * 1000);
    slider.setAttribute("aria-valuetext", `${Math.round(at.split * 100)} % before`);
    redraw();
  }

  // -- tiles

  function image(name) {
    let one = images.get(name);
    if (one) images.delete(name); // to the end: last used
    else {
      one = new Image();
      one.decoding = "async";
      one.addEventListener("load", redraw);
      one.src = name;
    }
    images.set(name, one);
    return one;
  }

  function forget() {
    for (const name of images.keys()) {
      if (images.size <= CACHE) return;
      images.delete(name);
    }
  }

  // the tiles in sight between two columns of the screen, coarse ones first; the finest is wanted
  function inSight(from, to) {
    const level = Math.min(tiles.levels - 1, Math.max(0, Math.floor(Math.log2(1 / at.scale) + 1e-6)));
    const zero = origin();
    const [x0, x1] = [Math.max(0, (from - zero.x) / at.scale), Math.min(width, (to - zero.x) / at.scale)];
    const [y0, y1] = [Math.max(0, -zero.y / at.scale), Math.min(height, (canvas.height - zero.y) / at.scale)];
    const found = [];
    if (x0 >= x1 || y0 >= y1) return found;
    for (let l = tiles.levels - 1; l >= level; l--) {
      const edge = tiles.tile * 2 ** l;
      for (let row = Math.floor(y0 / edge); row * edge < y1; row++) {
        for (let column = Math.floor(x0 / edge); column * edge < x1; column++) {
          const key = `${l}/${row}-${column}`;
          if (there.has(key)) found.push({ key, l, row, column, wanted: l === level });
        }
      }
    }
    return found;
  }

  // one side of the slider; false while a tile is still to come
  function drawSide(side, from, to) {
    if (to <= from) return true;
    const zero = origin();
    let complete = true;
    pen.save();
    pen.beginPath();
    pen.rect(from, 0, to - from, canvas.height);
    pen.clip();
    pen.imageSmoothingEnabled = at.scale < 1;
    pen.imageSmoothingQuality = "high";
    for (const { key, l, row, column, wanted } of inSight(from, to)) {
      const name = `tiles/${key}-${there.get(key) ? side : "before"}.webp`; // where nothing changed there is no after
      const ready = images.get(name)?.complete;
      if (!wanted && !ready && l !== tiles.levels - 1 && !isNeeded(l, row, column)) continue;
      const one = image(name);
      if (!one.complete || !one.naturalWidth) {
        complete = complete && one.complete;
        continue;
      }
      const step = 2 ** l * at.scale;
      const [x, y] = [zero.x + column * tiles.tile * step, zero.y + row * tiles.tile * step];
      const [x0, y0] = [Math.round(x), Math.round(y)];
      const [x1, y1] = [Math.round(x + one.naturalWidth * step), Math.round(y + one.naturalHeight * step)];
      pen.drawImage(one, x0, y0, x1 - x0, y1 - y0);
    }
    pen.restore();
    return complete;
  }

  // whether a finer tile under this one is missing, so that it is what can be seen there
  function isNeeded(l, row, column) {
    if (l === 0) return false;
    const edge = tiles.tile * 2 ** (l - 1);
    return [0, 1].some((y) => [0, 1].some((x) => {
      const [r, c] = [2 * row + y, 2 * column + x];
      return r * edge < height && c * edge < width && !there.has(`${l - 1}/${r}-${c}`);
    }));
  }

  // -- drawing

  function redraw() {
    if (scheduled) return;
    scheduled = true;
    canvas.dataset.state = "drawing";
    requestAnimationFrame(() => {
      scheduled = false;
      paint();
    });
  }

  function paint() {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const border = Math.round(at.split * canvas.width);
    const complete = [drawSide("before", 0, border), drawSide("after", border, canvas.width)].every(Boolean);
    if (shown.outline) drawOutline();
    if (shown.seams) drawSeams();
    drawSplit(border);
    forget();
    const ratio = devicePixelRatio;
    zoom.textContent = at.scale === 1 ? "1:1" : `${(at.scale * 100).toFixed(at.scale < 0.1 ? 1 : 0)} %`;
    canvas.style.touchAction = at.fit ? "pan-y" : "none";
    canvas.dataset.state = complete ? "complete" : "loading";
    // for whoever measures: where the box begins on the screen
    canvas.dataset.origin = `${origin().x} ${origin().y} ${ratio}`;
  }

  function stroked(path, lines) {
    pen.lineJoin = "round";
    for (const [colour, wide] of lines) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * devicePixelRatio;
      pen.stroke(path);
    }
  }

  function drawOutline() {
    const zero = origin();
    const [down, across] = outline.unit;
    const place = new DOMMatrix([
      across * at.scale, 0, 0, down * at.scale,
      zero.x + (outline.x - left) * at.scale, zero.y + (outline.y - top) * at.scale,
    ]);
    const path = new Path2D();
    path.addPath(new Path2D(outline.path), place);
    stroked(path, [["rgba(0, 0, 0, .55)", 3], ["#ff4fa3", 1.5]]);
  }

  function drawSeams() {
    const zero = origin();
    for (const [y0, x0, y1, x1, ratio] of [...seams.pieces].reverse()) {
      const path = new Path2D();
      path.moveTo(zero.x + (x0 - left) * at.scale, zero.y + (y0 - top) * at.scale);
      path.lineTo(zero.x + (x1 - left) * at.scale, zero.y + (y1 - top) * at.scale);
      const [colour, wide] = seamLook(ratio);
      stroked(path, [["rgba(0, 0, 0, .5)", wide + 1.5], [colour, wide]]);
    }
  }

  function drawSplit(x) {
    const ratio = devicePixelRatio;
    const path = new Path2D();
    path.moveTo(x, 0);
    path.lineTo(x, canvas.height);
    stroked(path, [["rgba(0, 0, 0, .45)", 3.5], ["#fff", 1.5]]);
    pen.beginPath();
    pen.arc(x, canvas.height - 28 * ratio, 13 * ratio, 0, 2 * Math.PI);
    pen.fillStyle = "#fff";
    pen.fill();
    pen.strokeStyle = "rgba(0, 0, 0, .5)";
    pen.lineWidth = ratio;
    pen.stroke();
    pen.fillStyle = "#222";
    for (const side of [-1, 1]) {
      pen.beginPath();
      pen.moveTo(x + side * 9 * ratio, canvas.height - 28 * ratio);
      pen.lineTo(x + side * 4 * ratio, canvas.height - 33 * ratio);
      pen.lineTo(x + side * 4 * ratio, canvas.height - 23 * ratio);
      pen.fill();
    }
  }

  // -- hands

  const pointers = new Map();
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) * (canvas.width / box.width),
      y: (event.clientY - box.top) * (canvas.height / box.height),
    };
  };
  let sliding = false;

  canvas.addEventListener("pointerdown", (event) => {
    const here = where(event);
    pointers.set(event.pointerId, here);
    canvas.setPointerCapture(event.pointerId);
    sliding = at.fit || Math.abs(here.x - at.split * canvas.width) < 24 * devicePixelRatio;
    if (sliding && pointers.size === 1) splitAt(here.x / canvas.width);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = where(event);
    tell(here);
    const before = pointers.get(event.pointerId);
    if (!before) return;
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const span = (a) => Math.hypot(a.x - other.x, a.y - other.y) || 1;
      zoomBy(span(here) / span(before), (here.x + other.x) / 2, (here.y + other.y) / 2);
    } else if (sliding) splitAt(here.x / canvas.width);
    else moveBy(here.x - before.x, here.y - before.y);
    pointers.set(event.pointerId, here);
  });
  canvas.addEventListener("pointerleave", () => { place.textContent = ""; });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    const here = where(event);
    zoomBy(2 ** (-event.deltaY / 240), here.x, here.y);
  }, { passive: false });

  function tell(here) {
    const zero = origin();
    const [x, y] = [Math.floor((here.x - zero.x) / at.scale) + left, Math.floor((here.y - zero.y) / at.scale) + top];
    const inside = x >= left && x < right && y >= top && y < bottom;
    let words = inside ? `x ${x}, y ${y}` : "";
    if (inside && shown.seams) {
      const reach = 8 * devicePixelRatio / at.scale;
      const near = seams.pieces.find(([y0, x0, y1, x1]) => x >= x0 - reach && x <= x1 + reach && y >= y0 - reach && y <= y1 + reach);
      if (near) words += `, seam ratio ${near[4].toFixed(2)}`;
    }
    place.textContent = words;
  }

  slider.addEventListener("input", () => splitAt(slider.value / 1000));
  const MOVES = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moveBy(move[0] * canvas.width / 8, move[1] * canvas.height / 8);
  });
  const KEYS = {
    "+": () => zoomBy(2), "=": () => zoomBy(2), "-": () => zoomBy(1 / 2), 0: fit, 1: () => exact(),
    m: () => outlineButton.click(), s: () => seamsButton?.click(),
    "[": () => splitAt(at.split - 0.05), "]": () => splitAt(at.split + 0.05),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
    const action = KEYS[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });

  new ResizeObserver(() => {
    const box = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(box.width * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(box.height * devicePixelRatio));
    if (at.fit) fit();
    else paint();
  }).observe(canvas);

  function lookAt(piece) {
    const [y0, x0, y1, x1] = piece;
    if (!shown.seams) seamsButton.click();
    exact((x0 + x1) / 2 - left, (y0 + y1) / 2 - top);
    canvas.scrollIntoView({ block: "center" });
    canvas.focus({ preventScroll: true });
  }

  return { element, lookAt };
}

// the colour and width of a piece of a border: more than its colour tells them apart
function seamLook(ratio) {
  if (ratio < 1.2) return ["#5ad18a", 1.5];
  if (ratio < 1.6) return ["#ffc247", 3];
  return ["#ff5a4f", 5];
}
