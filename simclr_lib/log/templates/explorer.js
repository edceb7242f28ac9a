// Walk through the neighbours of a run: an anywidget in JupyterLab, and the script of a page.
//
// model.get("shown") has all there is: N images, each at a position from 0 to N - 1 and with an id; columns, each with
// tables of the nearest of every image, by position. Nothing is searched here: the tables are top_k_neighbors' own.

const WORDS = { wall: { class: "by class", precision: "worst first", map: "as a map", confusions: "confusions" },
  layer: { h: "h, the embedding", z: "z, the projection" }, similarity: { cosine: "cosine", dot: "dot product" } };
const SHEET = 1024, HEADING = 24, MARGIN = 3; // pixels: the side of a sheet of pictures; on the wall
const OPEN = "#D55E00", MARKED = "#E69F00", CURSOR = "#0072B2", WHOLE = { x: 0, y: 0, zoom: 1 }; // the map

function make(tag, { data = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

// What a page holds as base64, and a widget as it is.
const bytes = (value) => (typeof value === "string" ? Uint8Array.from(atob(value), (sign) => sign.charCodeAt(0))
  : new Uint8Array(value.buffer, value.byteOffset, value.byteLength));

// Whole numbers of 32 bits, of which all lowest bytes come first, then all of the next, and so on.
async function unpack(packed) {
  const stream = new Blob([bytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = planes.length / 4, numbers = new Int32Array(n);
  for (let p = 0; p < 4; p++) for (let i = 0; i < n; i++) numbers[i] |= planes[p * n + i] << (8 * p);
  return numbers;
}

const counted = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;
const range = (n) => [...Array(n).keys()], within = (x, low, high) => Math.min(Math.max(x, low), high);

async function render({ model, el }) {
  const page = model.page === true;
  const addressed = page && location.protocol !== "about:"; // a frame in a report has no address of its own
  const shown = model.get("shown"), { classes, columns, names, side, table: attached, k: most } = shown;
  const [ids, labels, places] = await Promise.all(["ids", "labels", "places"].map((name) => unpack(shown[name])));
  const n = ids.length, at = new Map(range(n).map((i) => [ids[i], i])), columnNames = columns.map(({ name }) => name);
  const judged = labels.some((label) => label >= 0), numbers = range(judged ? classes.length : 0); // of classes
  const known = { wall: judged ? Object.keys(WORDS.wall) : ["class", "map"], layer: ["h", "z"], by: columnNames,
    similarity: ["cosine", "dot"], color: ["class", ...(judged ? ["hits"] : []), ...Object.keys(attached)],
    image: [...Array.from(ids, String), "own"], k: range(most + 1).slice(1), of: numbers, among: numbers };
  const first = { image: model.get("query").name ? "own" : null, k: Math.min(10, most), layer: "h", wall: "class",
    similarity: "cosine", of: null, among: null, by: columnNames.at(-1), color: "class", selected: "",
    columns: columns.filter((column) => columns.length < 9 || !column.snapshot).map(({ name }) => name).join("\n") };
  const state = { ...first }, trail = []; // of what was left for another image

  const className = (i) => (labels[i] < 0 ? "unlabelled" : classes[labels[i]]);
  const called = (i) => `no. ${ids[i]}, ${className(i)}${names ? `, ${names[i]}` : ""}`;
  const selection = () => new Set(state.selected.split(".").filter(Boolean).map(Number).filter((id) => at.has(id)));
  const position = () => at.get(Number(state.image ?? NaN));

  // What is waited for, or null where something else has been asked for in its place meanwhile.
  const asked = {};
  async function latest(part, waiting) {
    const mine = (asked[part] = {}), found = await waiting;
    return asked[part] === mine ? found : null;
  }

  // Pictures. A sheet is decoded when the first of its pictures is shown.
  const perRow = Math.floor(SHEET / side), perSheet = perRow ** 2, sheets = {}, decoded = {};
  const decode = (picture) => createImageBitmap(new Blob([bytes(picture)]));
  const sheetOf = (i) => Math.floor(i / perSheet);
  const place = (i) => [((i % perSheet) % perRow) * side, Math.floor((i % perSheet) / perRow) * side, side, side];
  const sheet = (s) => (sheets[s] ??= decode(shown.sheets[s]).then((bitmap) => (later(), (decoded[s] = bitmap))));
  function painted(decoding, from) {
    const canvas = make("canvas", { width: side, height: side });
    decoding.then((bitmap) => canvas.getContext("2d").drawImage(bitmap, ...from, 0, 0, side, side));
    return canvas;
  }
  const picture = (i) => painted(sheet(sheetOf(i)), place(i));

  // Tables. They are unpacked when their column is first shown; similarities are kept as steps from rank to rank.
  const tables = {};
  const chosenKind = () => `${state.layer} ${state.similarity}`;
  const kindOf = (column) => (chosenKind() in column.tables ? chosenKind() : "h cosine");
  function tableOf(column, query = null) { // that of an image of one's own has one row
    const kind = kindOf(column), { near, steps, step } = column.tables[kind], own = query?.found[column.name][kind];
    if (own) return { near: own[0], similarity: (i, rank) => own[1][rank] };
    return (tables[`${column.name} ${kind}`] ??= Promise.all([near, steps].map(unpack)).then(([positions, sums]) => {
      for (let i = 0; i < sums.length; i++) if (i % most) sums[i] = sums[i - 1] - sums[i];
      return { near: positions, similarity: (i, rank) => sums[i * most + rank] * step };
    }));
  }
  const mapped = () => state.wall === "map" && state.of === null;
  const by = () => (mapped() ? columnNames.at(-1) : state.by); // the map is made by h of the last column
  const chosenTable = () => tableOf(columns[columnNames.indexOf(by())]);
  const nearest = ({ near }, i) => near.slice(i * most, i * most + state.k);
  function judge(table, i) { // how many neighbours are of its class, and how many have one: [0, 0] where it has none
    const known = labels[i] < 0 ? [] : nearest(table, i).filter((j) => labels[j] >= 0);
    return [known.filter((j) => labels[j] === labels[i]).length, known.length];
  }

  // What is chosen. In a page it is in the address, and every step of a walk is an entry of the browser's history, with
  // how many lie behind it; "Back" is the browser's own there. A step changes the image, or the cell of the confusions;
  // what else was chosen on the way stays.
  let steps = (addressed && history.state?.steps) || 0;
  function address(changes = {}) {
    const chosen = Object.entries({ ...state, ...changes }).filter(([name, value]) => value !== (first[name] ?? null));
    return `#${new URLSearchParams(chosen)}`;
  }
  function choose(changes, step = false) {
    if (step && state.image !== null) trail[steps++] = { image: state.image, of: state.of, among: state.among };
    Object.assign(state, changes);
    if (addressed) history[step ? "pushState" : "replaceState"]({ steps }, "", address());
    if ("selected" in changes) model.set("selected", [...selection()]), model.save_changes();
    return show();
  }
  const arrangeBy = (wall) => choose({ wall, of: null, among: null }, state.of !== null);
  function read(entry) {
    const given = { ...first, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
    for (const name in known) given[name] = known[name].find((value) => `${value}` === given[name]) ?? first[name];
    if (given.of === null || given.among === null) given.of = given.among = null;
    const { image, of, among } = given;
    Object.assign(state, entry ? { image, of, among } : given);
  }
  function arrive({ state: entry }) { // by the browser's back and forward, or by another address
    read(entry), steps = entry?.steps ?? steps + 1;
    return choose({});
  }
  const open = (id) => choose({ image: String(id) }, state.image !== String(id));
  function toggle(id) {
    const marked = selection();
    if (!marked.delete(id)) marked.add(id);
    return choose({ selected: [...marked].join(".") });
  }
  const modified = (event) => event.ctrlKey || event.metaKey || event.shiftKey;
  let pointed = false; // whether the last image was picked by a mouse or a finger, and not by a key
  function pick(event, i) {
    pointed = event.detail > 0;
    return modified(event) ? toggle(ids[i]) : open(ids[i]);
  }

  // The frame: the wall at the left, an image and its columns at the right.
  const selects = {};
  function select(id, label) {
    const onchange = ({ target: { value } }) => (id === "wall" ? arrangeBy(value) : choose({ [id]: value }));
    const options = known[id].map((value) => make("option", { value, textContent: WORDS[id]?.[value] ?? value }));
    return make("label", {}, `${label} `, (selects[id] = make("select", { id, onchange }, ...options)));
  }
  const button = (id, textContent, onclick) => make("button", { id, textContent, onclick });
  function seek() { // an id, or else a part of a name
    const sought = find.value.trim().toLowerCase() || NaN;
    const found = at.get(Number(sought)) ?? names?.findIndex((of) => of.toLowerCase().includes(sought)) ?? -1;
    told.textContent = found < 0 ? `There is no image ${find.value}` : "";
    if (found >= 0) open(ids[found]);
  }
  async function upload() {
    told.textContent = `Embedding ${own.files[0].name} …`;
    model.send({ name: own.files[0].name }, undefined, [await own.files[0].arrayBuffer()]);
  }
  const told = make("p", { id: "told", className: "line", role: "status" });
  const legend = make("p", { className: "line" }), signs = make("p", { className: "line" });
  const canvas = make("canvas", { tabIndex: 0, role: "application",
    ariaLabel: `${counted(n)}. Arrow keys move, Enter opens, s selects, + and - zoom the map, 0 shows all of it.` });
  const spacer = make("div"), confused = make("div"), lists = make("div", { className: "columns" });
  const wall = make("div", { className: "wall", onscroll: () => later() }, canvas, spacer, confused);
  const find = make("input", { id: "find", type: "search", placeholder: "id or name", onchange: seek });
  const own = make("input", { id: "own", type: "file", accept: "image/*", onchange: upload });
  find.ariaLabel = "Find an image", own.ariaLabel = "An image of your own";
  const all = button("select-all", "", () => choose({ selected: order.map((i) => ids[i]).join(".") }));
  const none = button("select-none", "Select none", () => choose({ selected: "" }));
  const back = button("back", "← Back", () => (addressed ? history.back() : choose(trail[--steps])));
  const whole = button("whole", "Back to the confusions", () => arrangeBy("confusions"));
  const mark = button("select", "", () => toggle(Number(state.image)));
  const k = make("input", { id: "k", type: "range", min: 1, max: most, oninput: () => choose({ k: Number(k.value) }) });
  const kept = make("output"), image = make("div", { className: "image", ariaLive: "polite" });
  const boxes = columnNames.map((value) => make("input", { type: "checkbox", value, onchange: () =>
    choose({ columns: boxes.filter((box) => box.checked).map((box) => box.value).join("\n") }) }));
  const labelled = boxes.map((box) => make("label", {}, box, ` ${box.value} `));
  el.append(make("div", { className: "explorer" }, make("div", { className: "parts" },
    make("section", { className: "part", ariaLabel: "All images" }, make("div", { className: "choices" },
      select("wall", "Images"), select("by", "column"), select("color", "colour"), whole, find, all, none),
    wall, legend, told),
    make("section", { className: "part", ariaLabel: "Neighbours" }, make("div", { className: "choices" }, back, mark,
      make("label", {}, "k ", k, kept), select("layer", "layer"), select("similarity", "similarity"),
      make("details", {}, make("summary", { textContent: "Columns" }), ...labelled), ...(page ? [] : [own])),
    image, signs, lists))));

  // The wall: groups of images, each under a heading.
  let groups = [], order = [], cursor = 0, view = WHOLE, frame = null, color = () => "gray";
  let width = 0, height = 0, held = null, dragged = false; // pixels of the wall; where the map is held
  const cell = within(side, 32, 64) + 2 * MARGIN, context = canvas.getContext("2d"), spots = []; // by position
  const across = () => Math.max(1, Math.floor((width - MARGIN) / cell));
  function arrange(table) {
    const counts = range(n).map((i) => judge(table, i)), behind = state.of !== null;
    const leads = (i) => labels[i] === state.of && nearest(table, i).some((j) => labels[j] === state.among);
    const byHits = state.wall === "precision" && !behind, some = labels.includes(-1) ? "labelled " : "";
    const keyOf = (i) => (byHits ? counts[i].join(" of ") : labels[i]);
    groups = [...Map.groupBy(range(n).filter((i) => !behind || leads(i)), keyOf)].map(([key, members]) => {
      const [hits, of] = [0, 1].map((part) => members.reduce((sum, i) => sum + counts[i][part], 0));
      const share = of ? hits / of : 2; // which is after all others
      const title = byHits ? of ? `${key} ${some}neighbours are of the class` : "without a label, or among such"
        : behind ? `${classes[key]} with a neighbour of ${classes[state.among]}`
        : key < 0 ? "unlabelled" : `${classes[key]}, precision@${state.k} ${of ? share.toFixed(2) : "unknown"}`;
      return { members, rank: byHits ? share : key < 0 ? n : key, title: `${title}: ${counted(members.length)}` };
    }).sort((a, b) => a.rank - b.rank);
    order = groups.flatMap(({ members }) => members), cursor = Math.min(cursor, order.length - 1);
    tint(attached[state.color] ?? range(n).map(state.color === "hits" ? (i) => (counts[i][1] ? counts[i][0] : null)
      : (i) => classes[labels[i]] ?? null));
  }
  function tint(values) {
    const known = [...new Set(values.filter((value) => value !== null))];
    const scaled = known.length > 1 && known.every((value) => typeof value === "number");
    const [low, high] = [Math.min, Math.max].map((better) => known.reduce((a, b) => better(a, b), known[0]));
    const tones = new Map(known.map((value, rank) => [value, scaled
      ? `hsl(${20 + (190 * (value - low)) / (high - low)} 85% 50%)`
      : `hsl(${(rank * 137.5) % 360} 65% ${42 + (rank % 3) * 9}%)`]));
    color = (i) => tones.get(values[i]) ?? "gray";
    const listed = scaled ? [low, high] : known.slice(0, 12), unknown = values.includes(null) ? [null] : [];
    const keys = [...listed, ...unknown].map((value) => make("span", { className: "key" },
      make("span", { style: `color: ${tones.get(value) ?? "gray"}`, textContent: "■ " }), `${value ?? "unknown"}`));
    const others = scaled || known.length < 13 ? "" : `and ${known.length - 12} others`;
    legend.replaceChildren(mapped() ? `Placed by h of ${by()}. ` : "", ...keys, others);
  }
  // Gives each image its place on the wall: group by group, each under its heading.
  function settle() {
    ({ clientWidth: width, clientHeight: height } = wall);
    let below = 0;
    for (const group of groups) {
      group.top = below;
      group.members.forEach((i, shift) => (spots[i] = [MARGIN + (shift % across()) * cell,
        below + HEADING + Math.floor(shift / across()) * cell]));
      below += HEADING + Math.ceil(group.members.length / across()) * cell;
    }
    spacer.style.height = `${mapped() || canvas.hidden ? 0 : Math.max(0, below - height)}px`;
    draw();
  }
  // Where an image is to be seen, in pixels from the upper left of the wall, and how large.
  function spot(i) {
    if (!mapped()) return [spots[i][0], spots[i][1] - wall.scrollTop, cell - 2 * MARGIN];
    const x = 20 + ((places[2 * i] / 65535) * (width - 40) + view.x) * view.zoom;
    const y = 20 + ((places[2 * i + 1] / 65535) * (height - 40) + view.y) * view.zoom;
    return [x, y, within(5 * view.zoom, 4, side)];
  }
  function draw() {
    const dense = window.devicePixelRatio || 1, marked = selection(), opened = position(), last = [];
    Object.assign(canvas, { width: width * dense, height: height * dense });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    context.scale(dense, dense);
    context.font = "600 13px system-ui, sans-serif";
    context.fillStyle = getComputedStyle(wall).color;
    if (!mapped()) for (const group of groups) context.fillText(group.title, MARGIN, group.top + 17 - wall.scrollTop);
    for (const i of order) {
      const [x, y, size] = spot(i);
      if (x < -size || y < -size || x > width || y > height) continue;
      context.fillStyle = color(i);
      if (size < 8) context.fillRect(x, y, size, size);
      else {
        sheet(sheetOf(i));
        if (decoded[sheetOf(i)]) context.drawImage(decoded[sheetOf(i)], ...place(i), x, y, size, size);
        context.fillRect(x, y + size, size, 3);
      }
      const tone = i === opened ? OPEN : marked.has(ids[i]) ? MARKED : i === order[cursor] ? CURSOR : null;
      if (tone) last.push([tone, x, y, size]);
    }
    for (const [strokeStyle, x, y, size] of last) // on top of all others
      Object.assign(context, { strokeStyle, lineWidth: 3 }).strokeRect(x - 1, y - 1, size + 2, size + 2);
  }
  const later = () => (frame ??= requestAnimationFrame(() => { frame = null; draw(); }));
  const under = ({ offsetX, offsetY }) => order.findLast((i) => {
    const [x, y, size] = spot(i), reach = Math.max(size, 6);
    return offsetX >= x && offsetX < x + reach && offsetY >= y && offsetY < y + reach;
  });
  const reset = () => { if (mapped()) view = WHOLE, later(); };
  const pan = (x, y) => { view = { ...view, x: view.x + x / view.zoom, y: view.y + y / view.zoom }; later(); };
  // Scrolls the wall, or shifts the map, no further than it must for the cursor to be in view.
  function reveal() {
    const [x, y, size] = spot(order[cursor]);
    if (mapped()) pan(within(x, 20, width - 20 - size) - x, within(y, 20, height - 20 - size) - y);
    else wall.scrollTop += y - within(y, HEADING, height - cell);
    later();
  }
  function move(by) {
    cursor = within(cursor + by, 0, order.length - 1);
    told.textContent = called(order[cursor]);
    reveal();
  }
  function zoom(factor, x = width / 2, y = height / 2) {
    const next = within(view.zoom * factor, 0.8, 60), shift = 1 / next - 1 / view.zoom;
    view = { x: view.x + (x - 20) * shift, y: view.y + (y - 20) * shift, zoom: next };
    later();
  }
  const keys = { ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(across()), 0: reset,
    ArrowUp: () => move(-across()), Home: () => move(-n), End: () => move(n), Enter: () => open(ids[order[cursor]]),
    Backspace: () => back.click(), s: () => toggle(ids[order[cursor]]), "+": () => zoom(1.5), "-": () => zoom(0.67) };
  canvas.onkeydown = (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || !order.length) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has meanings of its own for these keys
    keys[event.key]();
  };
  canvas.onpointerdown = (event) => { held = event, dragged = false; };
  canvas.onpointerup = canvas.onpointerleave = () => { held = null; };
  canvas.onpointermove = (event) => {
    const i = held ? undefined : under(event);
    if (i !== undefined) told.textContent = called(i);
    const [x, y] = held ? [event.offsetX - held.offsetX, event.offsetY - held.offsetY] : [0, 0];
    if (mapped() && Math.abs(x) + Math.abs(y) > 2) pan(x, y), held = event, dragged = true;
  };
  canvas.onclick = (event) => { if (!dragged && under(event) !== undefined) pick(event, under(event)); };
  canvas.ondblclick = reset;
  canvas.onwheel = (event) => {
    if (mapped()) event.preventDefault(), zoom(1.002 ** -event.deltaY, event.offsetX, event.offsetY);
  };

  // Which classes the neighbours of each class are of, in percent; a cell leads to the images behind it.
  function confusions(table) {
    const counts = classes.map(() => new Int32Array(classes.length));
    for (let i = 0; i < n; i++) for (const j of nearest(table, i)) if (labels[i] >= 0) counts[labels[i]][labels[j]]++;
    const link = (of, among) => {
      const percent = (100 * counts[of][among]) / counts[of].reduce((sum, count) => sum + count, 0);
      const title = `${percent.toFixed(1)}% of the neighbours of ${classes[of]} are of ${classes[among]}`;
      const onclick = (event) => (addressed && modified(event)) || (choose({ of, among }, true), false); // or as a link
      return make("a", { href: address({ of, among, selected: "" }), onclick, title, ariaLabel: title,
        data: { cell: `${of},${among}` }, textContent: percent < 0.5 ? "<1" : percent.toFixed(0),
        className: of === among ? "hit" : "miss", style: `--share: ${Math.min(70, percent)}%` });
    };
    const headings = (scope) => classes.map((name) => make("th", { scope, textContent: name, title: name }));
    const rows = headings("row").map((heading, of) => make("tr", {}, heading,
      ...range(classes.length).map((among) => make("td", {}, ...(counts[of][among] ? [link(of, among)] : [])))));
    const caption = `Of the ${state.k} neighbours of a class (a row), the percent that are of each class; ${by()}`;
    confused.replaceChildren(make("table", {}, make("caption", { textContent: caption }),
      make("thead", {}, make("tr", {}, make("td"), ...headings("col"))), make("tbody", {}, ...rows)));
    groups = [], order = [], legend.replaceChildren();
  }

  // The image that is open, and its neighbours in every column that is chosen.
  async function detail() {
    const query = state.image === "own" && sent.found ? sent : null, i = position();
    const chosen = columns.filter(({ name }) => state.columns.split("\n").includes(name));
    back.disabled = !steps, mark.disabled = i === undefined, all.hidden = !order.length;
    mark.textContent = selection().has(ids[i]) ? "Unselect" : "Select";
    const found = await latest("image", Promise.all(chosen.map((column) => tableOf(column, query))));
    if (!found) return;
    if (i === undefined && !query) {
      signs.textContent = "Open an image: click on it, or move to it and press Enter. Ctrl-click selects it.";
      return image.replaceChildren(), lists.replaceChildren();
    }
    const near = found.map((table) => Array.from(nearest(table, i ?? 0), (j, rank) => [j, table.similarity(i, rank)]));
    const label = labels[i] ?? -1;
    const whole = query ? painted(decode(query.picture), [0, 0, side, side]) : picture(i);
    const lines = query ? [query.name, "an image of your own"] : [className(i), `no. ${ids[i]}`, names ? names[i] : ""];
    image.replaceChildren(whole, make("div", {}, ...lines.flatMap((text) => [text, make("br")])));
    signs.textContent = `${label < 0 ? "" : "✓ of the class, ✗ of another; "}`
      + "= also in the column before, + not there, − not in the next";
    const sets = near.map((pairs) => new Set(pairs.map(([j]) => j)));
    refill(chosen.map((each, c) => column(each, near[c], label, sets[c - 1], sets[c + 1])));
  }
  // Puts other columns in. The focus stays at its column and rank; for who uses keys, that is in view.
  function refill(parts) {
    const buttons = () => [...lists.querySelectorAll("button")];
    const focused = buttons().findIndex((each) => each.matches(":focus"));
    lists.replaceChildren(...parts);
    buttons()[Math.min(focused, buttons().length - 1)]?.focus({ preventScroll: pointed, focusVisible: !pointed });
  }
  function column(of, found, label, before, next) {
    const { name } = of, marked = selection(), known = found.filter(([j]) => labels[j] >= 0);
    const right = known.filter(([j]) => labels[j] === label), shared = found.filter(([j]) => before?.has(j)).length;
    const facts = [label < 0 ? "" : `${right.length} of ${known.length} hits`,
      before ? `${shared} shared, ${found.length - shared} gained, ${before.size - shared} lost` : ""];
    const other = kindOf(of) === chosenKind() ? "" : `by ${kindOf(of).replace(" ", ", ")}`; // other than what is chosen
    const items = found.map(([j, similarity], rank) => {
      const kind = label < 0 || labels[j] < 0 ? "" : labels[j] === label ? "hit" : "miss";
      const known = before?.has(j), leaves = next && !next.has(j), near = similarity.toPrecision(3);
      const words = [`${rank + 1}: ${called(j)}`, kind, `similarity ${near}`, before && (known ? "shared" : "gained"),
        leaves && "lost in the next column"];
      const text = [className(j), make("br"),
        `${{ hit: "✓ ", miss: "✗ " }[kind] ?? ""}${near} ${before ? "+="[+known] : ""}${leaves ? "−" : ""}`];
      return make("li", {}, make("button", { data: { id: ids[j] }, title: called(j), onclick: (event) => pick(event, j),
        className: `near ${kind} ${marked.has(ids[j]) ? "marked" : ""}`, ariaLabel: words.filter(Boolean).join(", ") },
      picture(j), make("span", {}, ...text)));
    });
    return make("section", { className: "column", data: { column: name }, ariaLabel: name },
      make("header", {}, make("h3", {}, name, make("small", { textContent: other })),
        make("p", {}, facts[0], make("br"), facts[1])), make("ol", {}, ...items));
  }
  function alike({ target, type }) {
    const id = target.closest("[data-id]")?.dataset.id, on = ["mouseover", "focusin"].includes(type);
    for (const each of lists.querySelectorAll(`[data-id="${id}"]`)) each.classList.toggle("same", on);
  }
  for (const type of ["mouseover", "mouseout", "focusin", "focusout"]) lists.addEventListener(type, alike);

  let drawn = {}, sent = model.get("query"); // what was chosen when it was shown last; the last image that was read
  async function show() {
    const changed = (...names) => names.some((name) => state[name] !== drawn[name]);
    const opened = changed("image"), moved = changed("wall", "by", "of", "among", "layer", "similarity");
    const arranged = moved || changed("k", "color");
    drawn = { ...state };
    for (const id in selects) selects[id].value = state[id];
    selects.by.parentElement.hidden = mapped();
    for (const box of boxes) box.checked = state.columns.split("\n").includes(box.value);
    k.value = kept.value = state.k, none.disabled = !state.selected, whole.hidden = state.of === null;
    const tabled = state.wall === "confusions" && state.of === null;
    canvas.hidden = tabled, confused.hidden = !tabled, wall.classList.toggle("map", mapped());
    const table = arranged && (await latest("wall", chosenTable()));
    if (table) (tabled ? confusions : arrange)(table), settle();
    all.textContent = `Select ${order.length.toLocaleString("en")}`;
    if (opened) lists.scrollTop = 0;
    await detail();
    settle();
    if (moved) cursor = wall.scrollTop = 0;
    if ((opened || moved) && order.includes(position())) cursor = order.indexOf(position()), reveal();
  }
  const watch = new ResizeObserver(settle);
  watch.observe(wall);

  const takeSelected = () => { state.selected = model.get("selected").join("."); show(); };
  function answer() {
    told.textContent = model.get("query").error ?? "";
    if (!told.textContent) sent = model.get("query"), open("own");
  }
  if (addressed) read(), history.replaceState({ steps }, ""), addEventListener("popstate", arrive);
  await show();
  for (const column of columns) tableOf(column); // so that the first click need not wait for them
  if (page) window.explorer = { open, state };
  else takeSelected(), model.on("change:selected", takeSelected), model.on("change:query", answer);
  return () => { watch.disconnect(), model.off("change:selected", takeSelected), model.off("change:query", answer); };
}

export default { render };

const data = document.getElementById("explorer-data");
if (data) {
  const values = JSON.parse(data.textContent), set = (name, value) => { values[name] = value; };
  render({ model: { page: true, get: (name) => values[name], set, save_changes() {} }, el: document.body });
}
