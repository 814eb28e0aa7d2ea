/* The tiles of one result: class, probabilities and valid fraction of each, there at once or unpacked bit by bit.

   Up to some hundred thousand tiles a page holds plain arrays. With more, it holds a coarse picture of the classes for the
   first drawing, then deflated pieces, a line each: the classes, the confidences, and for every so many tiles their
   valid fractions and probabilities, which are unpacked when one of them is asked for. */
const geoclassTiles = (() => {
  "use strict";

  const { Cells, decode, inflate } = geoclassGrid;
  const NONE = 255; // of a class: no tile here
  const FIRST_CHUNK = 2; // pieces before it hold what is drawn

  class Tiles extends Cells {
    constructor(values, classCount, later) {
      super(values);
      Object.assign(this, { classCount, chunks: new Map(), grids: new Map(), coarse: null });
      if (values.coarse) {
        const { per, columns, kinds } = values.coarse;
        Object.assign(this, { pieces: later.split("\n"), chunkTiles: values.chunk });
        this.coarse = { per, columns, kinds: decode(kinds, Uint8Array) };
        return;
      }
      for (const name of ["kind", "probability", "valid"]) this[name] = decode(values[name], Uint8Array);
      this.confidence = this.kind.map((kind, tile) => this.probability[tile * classCount + kind]);
    }

    /** Unpack what is drawn. Fails in browsers that cannot inflate. */
    async unpack() {
      if (!this.pieces) return;
      [this.kind, this.confidence] = await Promise.all(this.pieces.slice(0, FIRST_CHUNK).map(inflate));
    }

    /** Unpack the probabilities of a tile and those near it; true if they had not been there. */
    async load(tile) {
      if (!this.pieces || this.chunks.has(this.chunkOf(tile))) return false;
      const number = this.chunkOf(tile);
      this.chunks.set(number, await inflate(this.pieces[FIRST_CHUNK + number]));
      return true;
    }

    chunkOf(tile) {
      return Math.floor(tile / this.chunkTiles);
    }

    /** What is known of a tile; probabilities and valid fraction are null until they are unpacked. */
    record(tile, column, line) {
      const kind = this.kind[tile];
      const known = { ...this.place(column, line), tile, kind, confidence: this.confidence[tile] / 255 };
      let [bytes, from, valid] = [this.probability, tile * this.classCount, this.valid && this.valid[tile]];
      if (this.pieces) {
        const number = this.chunkOf(tile);
        bytes = this.chunks.get(number);
        if (!bytes) return { ...known, probabilities: null, valid: null };
        const within = tile - number * this.chunkTiles;
        const count = Math.min(this.chunkTiles, this.count - number * this.chunkTiles);
        [from, valid] = [count + within * this.classCount, bytes[within]];
      }
      const probabilities = Array.from(bytes.subarray(from, from + this.classCount), (value) => value / 255);
      return { ...known, probabilities, valid: valid / 255 };
    }

    /** The commonest class of each square of `per` × `per` places, line by line, and how many squares a line has. */
    commonest(per) {
      if (!this.grids.has(per)) this.grids.set(per, this.count ? this.makeCommonest(per) : null);
      return this.grids.get(per);
    }

    makeCommonest(per) {
      const { columns, rows, classCount, runs, kind } = this;
      const wide = Math.ceil(columns / per);
      const kinds = new Uint8Array(wide * Math.ceil(rows / per)).fill(NONE);
      const counts = new Uint32Array(wide * classCount);
      const settle = (high) => {
        for (let square = 0; square < wide; square++) {
          let [best, most] = [NONE, 0];
          for (let k = 0; k < classCount; k++) {
            const count = counts[square * classCount + k];
            if (count > most) [best, most] = [k, count];
          }
          kinds[high * wide + square] = best;
        }
        counts.fill(0);
      };
      let [at, tile] = [0, 0]; // the line of squares that is counted now, and the next tile
      for (let k = 0; k < runs.length; k += 2) {
        for (let cell = runs[k]; cell < runs[k] + runs[k + 1]; cell++) {
          const line = Math.floor(cell / columns);
          const high = Math.floor(line / per);
          if (high !== at) {
            settle(at);
            at = high;
          }
          counts[Math.floor((cell - line * columns) / per) * classCount + kind[tile++]]++;
        }
      }
      settle(at);
      return { per, columns: wide, kinds };
    }
  }

  return { Tiles, NONE };
})();
