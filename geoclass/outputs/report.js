/* The accuracy report: fills the page from the numbers embedded in it. One model is shown at a time. */
(() => {
  "use strict";

  const { h, known, percent, number, count, range, pvalue, whisker, curves, reliability, inkOn, Dots, DASH } = geoclassCharts;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { models, pairs, tiles, galleries } = data;
  const classes = data.scheme.classes;
  const state = { model: 0, matrix: "share", pinned: -1, only: false, tile: -1 };

  const $ = (id) => document.getElementById(id);
  const put = (id, ...children) => $(id).replaceChildren(...children.flat(3).filter(Boolean));
  const model = () => models[state.model];
  const tileWord = (value) => `${count(value)} ${value === 1 ? "tile" : "tiles"}`;
  const chip = (k) => h("i", { class: "chip", style: { background: classes[k].colour } });
  const named = (k) => h("span", { class: "named" }, chip(k), h("span", {}, classes[k].name));

  const key = (className, text) => h("span", {}, h("i", { class: className }), text, " ");

  /** A table in a box of its own that scrolls sideways, so that the page need not. */
  function table(caption, head, rows, className = "") {
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      h("table", { class: className }, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, rows)));
  }
  const th = (text, props = {}) => h("th", { scope: "col", ...props }, text);

  /** A rate with its interval beneath and as a line. */
  const rate = (estimate, least, write = percent) =>
    h("td", { class: "rate" }, h("b", {}, write(estimate.value)), h("small", {}, range(estimate, write)), whisker(estimate, least));

  /** Where the lines of a column begin: the tenth below its least value, so that differences can be seen. */
  function leastOf(estimates) {
    const values = estimates.flatMap((item) => [item.value, item.low]).filter(known);
    return Math.max(0, Math.min(0.9, Math.floor(Math.min(...values, 1) * 10) / 10));
  }

  // ---- head

  function head() {
    $("title").textContent = data.title;
    const { scores } = models[0];
    const facts = [`${count(scores.tiles)} test ${scores.tiles === 1 ? "tile" : "tiles"}`, `${classes.length} classes: ${data.scheme.title || data.scheme.name}`];
    put("facts", facts.map((fact) => h("span", {}, fact)));
    put("nav", [...document.querySelectorAll("main section[data-nav]")].filter((section) => !section.hidden).map((section) =>
      h("a", { href: `#${section.id}` }, section.dataset.nav)));
    if (models.length > 1) {
      $("models").hidden = false;
      put("models", models.map((item, k) => h("label", {},
        h("input", { type: "radio", name: "model", value: k, checked: k === 0, on: { change: () => { state.model = k; show(); } } }),
        h("span", {}, item.model))));
    }
    put("foot", `geoclass ${data.geoclass}. `, data.scheme.source ? `Classes: ${data.scheme.source}` : "");
  }

  // ---- result

  function headline() {
    const { scores, calibration, chosen, caveats, bundle, train_distance_m: far } = model();
    const figure = (name, estimate, write, hint) => h("div", { class: "figure" }, h("dt", {}, name),
      h("dd", {}, h("b", {}, write(estimate.value)), h("small", {}, range(estimate, write) || hint || "")));
    const distance = known(far) ? ` Half of them lie ${far >= 1000 ? `${(far / 1000).toFixed(1)} km` : `${Math.round(far)} m`} or more from the nearest training tile.` : "";
    put("headline", h("div", { class: "card result" },
      h("div", { class: "hero" },
        h("p", { class: "big", id: "overall" }, percent(scores.overall.value), h("span", {}, " %")),
        h("p", {}, "overall accuracy", models.length > 1 && h("em", {}, ` of ${model().model}`)),
        wide(scores)),
      h("div", { class: "said" },
        h("p", { class: "sentence" }, model().headline),
        h("dl", { class: "figures" },
          figure("Balanced accuracy, %", scores.balanced, percent),
          figure("Macro F1, %", scores.macro_f1, percent),
          figure("Cohen’s kappa", scores.kappa, number),
          figure("Mean AUC", { value: scores.macro_auc }, number, "one class against the rest"),
          figure("Calibration error, %", { value: calibration.ece }, percent, "confidence against accuracy"),
          figure("Always the commonest, %", { value: scores.commonest }, percent, "if all tiles got that class")))),
    h("div", { class: "pair notes" },
      h("div", { class: "card" }, h("h3", {}, "How the test tiles were chosen"),
        h("p", {}, (chosen || "Nobody recorded how these tiles were chosen. If they lie among the training tiles, the figures flatter the model.") + distance),
        h("p", { class: "muted" }, known(scores.blocks) ? `${tileWord(scores.tiles)} in ${count(scores.blocks)} ${scores.blocks === 1 ? "block" : "blocks"} of ground.` : `${tileWord(scores.tiles)}.`,
          bundle && h("span", {}, " Bundle ", h("code", {}, bundle.slice(0, 16)), "."))),
      h("div", { class: "card care" }, h("h3", {}, "Read with care"),
        h("ul", {}, [...caveats, "The figures hold for the mix of classes among these tiles. Areas on a map need an estimate of their own."].map((text) => h("li", {}, text))))));
  }

  /** The overall accuracy on a line from 0 to 100, with its interval and the commonest class's share. */
  function wide({ overall, commonest }) {
    const at = (value) => `${100 * value}%`;
    return h("div", { class: "wide", "aria-hidden": "true" },
      h("i", { class: "track" }), h("i", { class: "done", style: { width: at(overall.value) } }),
      known(overall.low) && h("i", { class: "interval", style: { left: at(overall.low), width: at(overall.high - overall.low) } }),
      h("i", { class: "mark", style: { left: at(commonest) } }));
  }

  // ---- several models

  function sideBySide() {
    if (models.length < 2) return;
    $("side").hidden = false;
    const columns = [["Overall, %", "overall", percent], ["Balanced, %", "balanced", percent], ["Macro F1, %", "macro_f1", percent], ["Kappa", "kappa", number]];
    const least = Object.fromEntries(columns.map(([, name]) => [name, leastOf(models.map((item) => item.scores[name]))]));
    put("side-table", table("Models side by side", h("tr", {}, th("Model"), columns.map(([text]) => th(text)), th("Mean AUC", { class: "num" }), th("Log loss", { class: "num" }), th("ECE, %", { class: "num" })),
      models.map((item) => h("tr", {}, h("th", { scope: "row" }, item.model), columns.map(([, name, write]) => rate(item.scores[name], least[name], write)),
        h("td", { class: "num" }, number(item.scores.macro_auc)), h("td", { class: "num" }, number(item.calibration.log_loss)), h("td", { class: "num" }, percent(item.calibration.ece))))));
    const points = (value) => (value > 0 ? "+" : "") + number(100 * value, 1);
    put("side-pairs", table("McNemar’s test of each pair", h("tr", {}, th("Pair"), th("Only the first right", { class: "num" }), th("Only the second right", { class: "num" }), th("Difference, points"), th("p", { class: "num" }), th("p, adjusted", { class: "num" }), th("More than chance?")),
      pairs.map((pair) => h("tr", {}, h("th", { scope: "row" }, pair.first, h("span", { class: "muted" }, " and "), pair.second),
        h("td", { class: "num" }, count(pair.only_first)), h("td", { class: "num" }, count(pair.only_second)),
        h("td", {}, h("b", {}, points(pair.difference.value)), h("small", {}, range(pair.difference, points))),
        h("td", { class: "num" }, pvalue(pair.p), h("small", {}, pair.exact ? "exact" : `χ² ${number(pair.statistic, 1)}`)),
        h("td", { class: "num" }, pvalue(pair.p_holm)), h("td", {}, verdict(pair))))),
    h("p", { class: "note" }, "McNemar’s test looks only at tiles that one model got right and the other wrong; p is adjusted after Holm for the number of pairs. It takes tiles as independent, which neighbours are not: where the interval of the difference, which resamples whole blocks, holds 0, do not call one better."));
  }

  function verdict(pair) {
    const clear = pair.p_holm < 0.05 && known(pair.difference.low) && (pair.difference.low > 0 || pair.difference.high < 0);
    return clear ? h("span", {}, h("b", {}, pair.difference.value > 0 ? pair.first : pair.second), " is better") : "Cannot be told apart";
  }

  // ---- classes

  function classTable() {
    const found = model().scores.classes;
    const names = ["recall", "precision", "f1"];
    const least = leastOf(found.flatMap((item) => names.map((name) => item[name])));
    put("class-table", table("Scores of each class", h("tr", {}, th("Class"), th("Tiles", { class: "num" }), th("Recall, %"), th("Precision, %"), th("F1, %"), th("AUC", { class: "num" }), th("Average precision", { class: "num" })),
      found.map((item, k) => h("tr", {}, h("th", { scope: "row" }, named(k)), h("td", { class: "num" }, count(item.tiles), item.tiles < 30 && h("small", {}, item.tiles ? "few" : "none")),
        names.map((name) => rate(item[name], least)), h("td", { class: "num" }, number(item.auc)), h("td", { class: "num" }, number(item.average_precision))))),
    h("p", { class: "note" }, `The lines run from ${Math.round(100 * least)} to 100 %.`));
  }

  // ---- confusion

  function matrix() {
    const { confusion, classes: found } = model().scores;
    const many = classes.length > 8;
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const cell = (value, total, right, words) => {
      const share = total ? value / total : 0;
      const [depth, colour] = [Math.sqrt(share), right ? [10, 92, 112] : [179, 71, 10]];
      const text = state.matrix === "count" ? count(value) : total ? percent(share) : DASH;
      return h("td", {
        class: `cell${right ? " right" : ""}${value ? "" : " none"}`, title: words,
        style: { background: value ? `rgb(${colour.join(" ")} / ${depth.toFixed(3)})` : "transparent", color: inkOn(colour, value ? depth : 0) },
      }, text);
    };
    put("matrix", table(state.matrix === "count" ? "Confusion matrix, in tiles" : "Confusion matrix, in % of the true class",
      [h("tr", {}, th("True class", { class: "corner" }), classes.map((item, k) => th(h("span", { class: "named" }, chip(k), h("span", {}, item.name)), { class: "said", title: `Called ${item.name}` })), th("Tiles", { class: "num" }), th("Recall, %", { class: "num" }))],
      [...confusion.map((row, i) => h("tr", {}, h("th", { scope: "row" }, named(i)),
        row.map((value, j) => cell(value, sum(row), i === j, `${tileWord(value)} of ${classes[i].name} called ${classes[j].name}`)),
        h("td", { class: "num" }, count(sum(row))), h("td", { class: "num" }, percent(found[i].recall.value)))),
      h("tr", { class: "total" }, h("th", { scope: "row" }, "Called so"), found.map((item) => h("td", { class: "num mid" }, count(item.predicted))), h("td", { class: "num" }, count(model().scores.tiles)), h("td", {})),
      h("tr", {}, h("th", { scope: "row" }, "Precision, %"), found.map((item) => h("td", { class: "num mid" }, percent(item.precision.value))), h("td", {}), h("td", { class: "num" }, h("b", {}, percent(model().scores.overall.value))))],
      `matrix${many ? " many" : ""}`));
    const wrong = confusion.flatMap((row, i) => row.map((value, j) => ({ value, i, j, share: value / sum(row) }))).filter(({ value, i, j }) => i !== j && value);
    wrong.sort((a, b) => b.value - a.value);
    put("confusions", wrong.length > 0 && [h("h3", {}, "The commonest mistakes"), h("ol", { class: "common" }, wrong.slice(0, 5).map(({ value, i, j, share }) =>
      h("li", {}, h("span", { class: "swap" }, named(i), h("span", { class: "muted" }, "taken for"), named(j)), h("span", { class: "how" }, h("b", {}, count(value)), ` of ${tileWord(sum(confusion[i]))}, ${percent(share)} %`))))]);
  }

  // ---- curves

  function ranking() {
    const { curves: found, scores } = model();
    const drawn = [];
    const both = (chosen) => drawn.forEach((pick) => pick(chosen));
    const card = (id, title, note, points, areas, options) => {
      const lines = points.map((pair, k) => ({ points: pair, colour: classes[k].safe, name: classes[k].name }));
      const chart = curves({ label: title, lines, ...options });
      const legend = h("ul", { class: `legend${classes.length > 8 ? " two" : ""}` }, classes.map((item, k) => {
        const button = h("button", {
          type: "button", "aria-pressed": String(state.pinned === k), disabled: !points[k][0].length,
          on: {
            pointerenter: () => both(k), pointerleave: () => both(state.pinned), focus: () => both(k), blur: () => both(state.pinned),
            click: () => {
              state.pinned = state.pinned === k ? -1 : k;
              document.querySelectorAll(".legend").forEach((list) => [...list.querySelectorAll("button")].forEach((other, at) => other.setAttribute("aria-pressed", String(at === state.pinned))));
              both(state.pinned);
            },
          },
        }, h("i", { class: "stroke", style: { background: item.safe } }), h("span", {}, item.name), h("b", {}, number(areas[k])));
        return h("li", {}, button);
      }));
      drawn.push(chart.pick);
      put(id, h("h3", {}, title), h("p", { class: "muted" }, note), chart.svg, legend);
    };
    card("roc", "ROC curves", "Area under the curve (AUC): 0.5 is guessing, 1 perfect.", found.roc, scores.classes.map((item) => item.auc), { across: "False positive rate, %", up: "True positive rate, %", chance: true });
    card("pr", "Precision and recall", "Average precision: the class’s share is guessing, 1 perfect.", found.precision_recall, scores.classes.map((item) => item.average_precision), { across: "Recall, %", up: "Precision, %", stepped: true });
    both(state.pinned);
  }

  // ---- calibration

  function calibration() {
    const { calibration: after, uncalibrated: before } = model();
    const right = model().scores.overall.value;
    const mean = after.confidence.reduce((total, value, k) => total + (after.tiles[k] ? value * after.tiles[k] : 0), 0) / model().scores.tiles;
    const over = mean - right;
    const words = Math.abs(over) < 0.01 ? "On the whole its confidence can be taken at its word"
      : over > 0 ? "On the whole it is surer than it may be" : "On the whole it is less sure than it could be";
    const row = (name, write, key) => h("tr", {}, h("th", { scope: "row" }, name), before && h("td", { class: "num" }, write(before[key])), h("td", { class: "num" }, h("b", {}, write(after[key]))));
    put("reliability", h("div", { class: "pair" }, reliability(after, before), h("div", { class: "prose" },
      h("p", { class: "sentence" }, `${words}: mean confidence ${percent(mean)} %, right ${percent(right)} %.`),
      h("p", { class: "key" }, key("accuracy", "right in each bin"), key("gap", "gap to its confidence"), key("dash", "perfect"), before && key("ring", "before calibration")),
      table("Calibration", h("tr", {}, th("Measure"), before && th("Before", { class: "num" }), th(before ? "After" : "Value", { class: "num" })),
        [row("Expected calibration error, %", percent, "ece"), row("Log loss", number, "log_loss"), row("Brier score", number, "brier"), known(after.temperature) && row("Temperature", number, "temperature")]),
      h("p", { class: "muted" }, "The expected calibration error is the mean distance of the bars from the dashed line, weighted by the tiles in each bin. ",
        before && "Temperature scaling makes all probabilities flatter or sharper and changes no class; the temperature was fitted on validation tiles, not on these."))));
  }

  // ---- other views

  function views() {
    const { scores, pure, mixed, gap, grouped } = model();
    const rows = [["All test tiles", scores, `${classes.length} classes`]];
    if (pure) rows.push(["Pure tiles", pure, "one class covers 90 % or more"]);
    if (mixed) rows.push(["Mixed tiles", mixed, "no class covers 90 %"]);
    for (const item of grouped) rows.push([item.title, item, `${item.classes.length} classes: ${item.classes.map((group) => group.name).join(", ")}`]);
    const least = leastOf([...rows.flatMap(([, item]) => [item.overall, item.balanced]), ...(gap ? [gap.random] : [])]);
    const body = rows.map(([name, item, note]) => h("tr", {}, h("th", { scope: "row" }, name, h("small", {}, note)), h("td", { class: "num" }, count(item.tiles)), rate(item.overall, least), rate(item.balanced, least), h("td", { class: "num" }, number(item.kappa.value))));
    if (gap) body.push(h("tr", {}, h("th", { scope: "row" }, "On a random split", h("small", {}, `${gap.gap >= 0 ? "+" : ""}${number(100 * gap.gap, 1)} points against the figure above`)), h("td", { class: "num" }, DASH), rate(gap.random, least), h("td", {}, DASH), h("td", { class: "num" }, DASH)));
    put("view-table", table("Overall accuracy under other views", h("tr", {}, th("View"), th("Tiles", { class: "num" }), th("Overall, %"), th("Balanced, %"), th("Kappa", { class: "num" })), body),
      gap && h("p", { class: "note" }, "A random split puts neighbours of the training tiles into the test, which look alike. The gap is how much that flatters; believe the first row."));
    put("groups", grouped.map((item) => {
      const low = leastOf(item.classes.flatMap((group) => [group.recall, group.precision]));
      return h("div", { class: "card" }, h("h3", {}, item.title), table(item.title, h("tr", {}, th("Group"), th("Tiles", { class: "num" }), th("Recall, %"), th("Precision, %")),
        item.classes.map((group) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: "named" }, h("i", { class: "chip", style: { background: group.colour } }), h("span", {}, group.name))), h("td", { class: "num" }, count(group.tiles)), rate(group.recall, low), rate(group.precision, low)))));
    }));
    const extra = grouped.length + (pure || mixed ? 1 : 0) + (gap ? 1 : 0);
    $("views").hidden = !extra;
  }

  // ---- map

  let dots = null;
  let mistakes = [];

  function map() {
    if (!tiles) return;
    if (!dots) {
      dots = new Dots($("map-canvas"), tiles);
      const at = (event) => dots.near(event.offsetX, event.offsetY);
      $("map-canvas").addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") choose(at(event), false); });
      $("map-canvas").addEventListener("click", (event) => choose(at(event), false));
      $("map-canvas").addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (step) { event.preventDefault(); walk(step); }
      });
      document.querySelectorAll("input[name=dots]").forEach((input) => input.addEventListener("change", () => { state.only = input.value === "wrong"; choose(-1, true); }));
      window.addEventListener("resize", () => dots.draw({}));
      window.addEventListener("beforeprint", () => dots.draw({}));
    }
    const { predicted } = tiles.answers[state.model];
    const wrong = predicted.map((value, k) => value !== tiles.truth[k]);
    const { confidence } = tiles.answers[state.model];
    mistakes = [...wrong.keys()].filter((k) => wrong[k]).sort((a, b) => confidence[b] - confidence[a]);
    $("map-canvas").setAttribute("aria-label", `Map of ${tileWord(wrong.length)}, ${count(mistakes.length)} of them wrong. Arrow keys step through the mistakes.`);
    dots.state.wrong = wrong;
    choose(state.tile, true);
    put("map-key", key("hit", "right"), key(dots.dense ? "miss dense" : "miss", "wrong"), tiles.train && key("trained", "training tile"));
  }

  function choose(tile, redraw) {
    if (!redraw && (tile < 0 || tile === state.tile)) return;
    state.tile = tile;
    if (redraw) dots.draw({ chosen: tile, only: state.only });
    else dots.ring(tile);
    const walker = mistakes.length > 0 && h("div", { class: "walker" },
      h("button", { type: "button", "aria-label": "Previous mistake", on: { click: () => walk(-1) } }, "‹"),
      h("span", {}, mistakes.includes(tile) ? `Mistake ${count(mistakes.indexOf(tile) + 1)} of ${count(mistakes.length)}` : `${count(mistakes.length)} ${mistakes.length === 1 ? "mistake" : "mistakes"}`),
      h("button", { type: "button", "aria-label": "Next mistake", on: { click: () => walk(1) } }, "›"));
    if (tile < 0) {
      put("map-tile", h("p", { class: "muted" }, "Point at a tile or tap it, or step through the mistakes, the most confident first."), walker);
      return;
    }
    const answer = tiles.answers[state.model];
    const right = answer.predicted[tile] === tiles.truth[tile];
    put("map-tile", h("p", { class: `verdict ${right ? "good" : "bad"}` }, right ? "Right" : "Wrong"),
      h("dl", {}, h("dt", {}, "Truth"), h("dd", {}, named(tiles.truth[tile])), h("dt", {}, "Called"), h("dd", {}, named(answer.predicted[tile])),
        h("dt", {}, "Confidence"), h("dd", {}, `${percent(answer.confidence[tile])} %`), h("dt", {}, "Tile"), h("dd", {}, h("code", {}, tiles.keys[tile]))), walker);
  }

  /** To the next mistake, or the one before: the most confident come first. */
  function walk(step) {
    if (!mistakes.length) return;
    const at = mistakes.indexOf(state.tile);
    const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
    choose(mistakes[at < 0 ? (step > 0 ? 0 : mistakes.length - 1) : (at + step + mistakes.length) % mistakes.length], false);
    const button = [...document.querySelectorAll(".walker button")].find((item) => item.getAttribute("aria-label") === focused);
    if (button) button.focus(); // the button was drawn anew
  }

  // ---- galleries

  function gallery(kind, none) {
    const cards = galleries[state.model][kind];
    put(`gallery-${kind}`, cards.length ? cards.map((card) => {
      const right = card.truth === card.predicted;
      const bars = card.probabilities.map(([k, p]) => h("li", { class: k === card.truth ? "true" : "" }, h("span", { class: "named" }, chip(k), h("span", {}, classes[k].name)), h("span", { class: "bar-of" }, h("i", { style: { width: `${100 * p}%`, background: k === card.predicted ? (right ? "#0a5c70" : "#b3470a") : "#9aa7a6" } })), h("span", { class: "num" }, `${Math.round(100 * p)} %`)));
      return h("figure", { class: "card" }, card.picture && h("img", { src: card.picture, alt: `Tile ${card.key}`, width: 160, height: 160 }),
        h("figcaption", {}, right ? h("p", { class: "say" }, h("b", {}, classes[card.truth].name)) : h("p", { class: "say" }, h("b", {}, classes[card.truth].name), " called ", h("b", { class: "bad" }, classes[card.predicted].name)),
          h("ol", { class: "bars", "aria-label": "Probabilities" }, bars), h("code", { title: card.key }, card.key)));
    }) : h("p", { class: "card muted" }, none));
  }

  // ---- method

  function method() {
    const { repeats, seed } = model();
    const item = (name, text) => [h("dt", {}, name), h("dd", {}, text)];
    put("method-text", h("dl", {},
      item("Intervals", `95 % percentile intervals from ${count(repeats)} resamples (seed ${seed}) of whole blocks of tiles, since neighbouring tiles resemble each other. Where all resamples agree, as for a class that was always right, no interval is given: that is no sign of certainty. Efron & Tibshirani 1993, An Introduction to the Bootstrap; Lahiri 2003, Resampling Methods for Dependent Data.`),
      item("Accuracy, recall, precision, F1", "From the confusion matrix. Recall is the producer’s accuracy, precision the user’s. Balanced accuracy is the mean recall of the classes that occur; macro F1 the mean F1 of the classes that occur in truth or answers. Congalton 1991, Remote Sensing of Environment 37; Brodersen et al. 2010, ICPR."),
      item("Kappa", "Agreement beyond what the margins of the matrix would give by chance. Cohen 1960, Educational and Psychological Measurement 20. It says little that overall accuracy does not and is given because it is asked for (Pontius & Millones 2011, International Journal of Remote Sensing 32)."),
      item("ROC and precision–recall", "Each class against all others, on its probability. Average precision sums steps and does not interpolate. Fawcett 2006, Pattern Recognition Letters 27; Davis & Goadrich 2006, ICML."),
      item("Calibration", "Expected calibration error in 15 equal bins of confidence; temperature scaling: Guo et al. 2017, On Calibration of Modern Neural Networks, ICML. Brier score summed over classes, 0 to 2: Brier 1950, Monthly Weather Review 78."),
      models.length > 1 && item("Comparison", "McNemar 1947, Psychometrika 12: exact binomial with fewer than 25 tiles on which only one is right, else chi-square with Edwards’ continuity correction. Adjusted for several pairs: Holm 1979, Scandinavian Journal of Statistics 6."),
      model().grouped.length > 0 && item("Coarser classes", "Probabilities of a group’s members are added, then the likeliest group is taken; this can differ from grouping the likeliest class."),
      item("What these figures are not", "An estimate of areas. For areas and their errors draw a probability sample of the map: Olofsson et al. 2014, Remote Sensing of Environment 148.")));
  }

  function show() {
    headline();
    classTable();
    matrix();
    ranking();
    calibration();
    views();
    map();
    gallery("mistakes", "There is none.");
    gallery("hits", "There is none.");
    method();
  }

  document.querySelectorAll("input[name=matrix]").forEach((input) => input.addEventListener("change", () => { state.matrix = input.value; matrix(); }));
  sideBySide();
  $("map").hidden = !tiles;
  show();
  head();
  window.geoclassReport = { data, state };
})();
