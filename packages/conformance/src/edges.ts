import { roundTo, type FaError, type Tensor } from "@fa/core";
import { naiveAttention } from "@fa/core/reference";
import { agree, hold, same, type Check } from "./check.ts";
import { Random } from "./random.ts";
import { dataOf, numbersOf, problemOf, type Inputs, type Numbers, type Options, type Subject } from "./subject.ts";

/** Section 4 of the contract, row by row, and the mistakes of section 6. */
export const EDGES: readonly Check[] = [
  {
    name: "a row that sees no key gives out = 0, lse = -Infinity, gradients 0",
    capability: "edges",
    async run(subject) {
      const problem = random("empty rows", { Sq: 20, Skv: 40 });
      // Rows 3 and 17 see nothing; the others see everything, so tiles are mixed.
      const mask = bools([1, 1, 20, 40], ([, , i]) => i !== 3 && i !== 17);
      const { out, lse, dq, dk, dv } = await subject.backward(problem, problem.dout, { mask });
      for (const h of [0, 1]) {
        for (const i of [3, 17]) {
          hold(
            row(out, h * 20 + i, 8).every((x) => x === 0),
            `out of the empty row ${i} is not 0`,
          );
          hold(lse[h * 20 + i] === -Infinity, `lse of the empty row ${i} is ${lse[h * 20 + i]}`);
          hold(
            row(dq, h * 20 + i, 8).every((x) => x === 0),
            `dq of the empty row ${i} is not 0`,
          );
        }
        hold(Number.isFinite(lse[h * 20]), "a row beside an empty one lost its lse");
      }
      const nothing = bools([1, 1, 1, 1], () => false);
      const empty = await subject.backward(problem, problem.dout, { mask: nothing });
      for (const name of ["out", "dq", "dk", "dv"] as const) {
        hold(
          empty[name].every((x) => x === 0),
          `${name} is not 0 where no row sees a key`,
        );
      }
      hold(
        empty.lse.every((x) => x === -Infinity),
        "lse is not -Infinity where no row sees a key",
      );
      hold(dk.some((x) => x !== 0) && dv.some((x) => x !== 0), "gradients vanished");
    },
  },
  {
    name: "with sinks, a row that sees no key gives out = 0 and lse = sink",
    capability: "edges",
    async run(subject) {
      const problem = random("empty rows with sinks", { Sq: 9, Skv: 4 });
      const sinks: Numbers = { shape: [2], values: [1.5, -2] };
      // Bottom-right causal with more queries than keys: the first five rows see nothing.
      const options: Options = { causal: true, sinks };
      const { out, lse, dq, dsinks } = await subject.backward(problem, problem.dout, options);
      for (const h of [0, 1]) {
        for (let i = 0; i < 5; i++) {
          hold(
            row(out, h * 9 + i, 8).every((x) => x === 0),
            "out is not 0",
          );
          agree("lse", [lse[h * 9 + i]], [sinks.values[h]]);
          hold(
            row(dq, h * 9 + i, 8).every((x) => x === 0),
            "dq is not 0",
          );
        }
      }
      hold(dsinks!.every(Number.isFinite), "dsinks is not finite");
    },
  },
  ...(["Sq", "Skv", "B"] as const).map((size): Check => ({
    name: `${size} = 0 gives an empty or zero result, forward and backward, with every option at once`,
    capability: "edges",
    async run(subject) {
      const sizes = { B: 2, Sq: 6, Skv: 7, [size]: 0 };
      const problem = random(`no ${size}`, sizes);
      const shape = [sizes.B, 2, sizes.Sq, sizes.Skv];
      const options: Options = {
        causal: true,
        softcap: 5,
        bias: new Random("bias").numbers(shape),
        mask: new Random("mask").mask(shape, 0.5),
        alibiSlopes: { shape: [2], values: [0.5, 0.25] },
        dropout: { p: 0.5, seed: 1 },
      };
      const { out, lse, dq, dk, dv, dbias } = await subject.backward(problem, problem.dout, options);
      for (const result of [out, dq, dk, dv, dbias!])
        hold(
          result.every((x) => x === 0),
          "a result is not 0",
        );
      hold(
        lse.every((x) => x === -Infinity),
        "lse is not -Infinity",
      );
      hold(out.length === sizes.B * 2 * sizes.Sq * 8, "out has another size");
    },
  })),
  {
    name: "hidden keys and values that hold NaN or Inf change no bit of what others compute",
    capability: "nan",
    async run(subject) {
      const clean = random("nan leaks", { Sq: 37, Skv: 75, D: 12 });
      const hidden = bools([1, 1, 37, 75], ([, , i, j]) => j % 5 !== 2 && !(i < 9 && j > 60));
      for (const poison of [NaN, Infinity, -Infinity]) {
        const dirty = { ...clean, k: poisoned(clean.k, 75, 12, poison), v: poisoned(clean.v, 75, 12, poison) };
        for (const extra of [{}, { causal: true }, { window: [40, 3] }, { dropout: { p: 0.3, seed: 4 } }]) {
          const options = { mask: hidden, ...extra } as Options;
          const expected = await subject.backward(clean, clean.dout, options);
          const got = await subject.backward(dirty, clean.dout, options);
          for (const name of ["out", "lse", "dq", "dk", "dv"] as const) same(name, expected[name], got[name]);
        }
      }
    },
  },
  {
    name: "queries and gradients of rows that do not see a key leave no NaN in that key's gradient",
    capability: "nan",
    async run(subject) {
      const clean = random("nan rows", { Sq: 40, Skv: 33, D: 10 });
      const nan = (numbers: Numbers): Numbers => {
        const values = Float64Array.from(numbers.values);
        for (const h of [0, 1]) values.fill(NaN, (h * 40 + 21) * 10, (h * 40 + 22) * 10);
        return { ...numbers, values };
      };
      // Row 21 is poisoned and sees only keys from 20 on.
      const mask = bools([1, 1, 40, 33], ([, , i, j]) => i !== 21 || j >= 20);
      const got = await subject.backward({ ...clean, q: nan(clean.q) }, nan(clean.dout), { mask });
      const expected = await subject.backward(clean, clean.dout, { mask });
      for (const h of [0, 1]) {
        for (let j = 0; j < 33; j++) {
          const [dk, dv] = [row(got.dk, h * 33 + j, 10), row(got.dv, h * 33 + j, 10)];
          if (j >= 20) {
            hold(dk.every(Number.isNaN) && dv.every(Number.isNaN), `key ${j} is seen by a NaN row and shows none`);
          } else {
            same(`dk of key ${j}`, dk, row(expected.dk, h * 33 + j, 10));
            same(`dv of key ${j}`, dv, row(expected.dv, h * 33 + j, 10));
          }
        }
        for (let i = 0; i < 40; i++) {
          if (i !== 21) same(`dq of row ${i}`, row(got.dq, h * 40 + i, 10), row(expected.dq, h * 40 + i, 10));
        }
      }
    },
  },
  {
    name: "a row whose lse is NaN leaves no NaN in dv of keys that it does not see",
    capability: "nan",
    async run(subject) {
      const clean = random("nan lse", { Sq: 26, Skv: 26, D: 7 });
      const values = Float64Array.from(clean.q.values);
      // Row 9 alone is NaN; causal hides keys from 10 on.
      for (const h of [0, 1]) values[(h * 26 + 9) * 7] = NaN;
      const options: Options = { causal: true };
      const got = await subject.backward({ ...clean, q: { ...clean.q, values } }, clean.dout, options);
      const expected = await subject.backward(clean, clean.dout, options);
      for (const h of [0, 1]) {
        hold(Number.isNaN(got.lse[h * 26 + 9]), "lse of the NaN row is a number");
        for (let j = 10; j < 26; j++) {
          same(`dv of key ${j}`, row(got.dv, h * 26 + j, 7), row(expected.dv, h * 26 + j, 7));
          same(`dk of key ${j}`, row(got.dk, h * 26 + j, 7), row(expected.dk, h * 26 + j, 7));
        }
      }
    },
  },
  {
    name: "a dout that is NaN on a row that sees no key leaves no NaN in dsinks or any other gradient",
    capability: "nan",
    async run(subject) {
      const clean = random("nan dout", { Sq: 14, Skv: 9, D: 6 });
      const values = Float64Array.from(clean.dout.values);
      for (const h of [0, 1]) values.fill(NaN, (h * 14 + 2) * 6, (h * 14 + 3) * 6);
      // Bottom-right causal with five more queries than keys: row 2 sees nothing.
      const options: Options = { causal: true, sinks: { shape: [2], values: [0.5, -1] } };
      const expected = await subject.backward(clean, clean.dout, options);
      const got = await subject.backward(clean, { ...clean.dout, values }, options);
      for (const name of ["dq", "dk", "dv", "dsinks"] as const) same(name, got[name]!, expected[name]!);
    },
  },
  {
    name: "large ALiBi and bias terms keep their weight beside small scores, at scale 1 and D = 1",
    capability: "stability",
    async run(subject) {
      const draw = new Random("large terms");
      const shape = [1, 2, 21, 1];
      const keys = [1, 2, 50, 1];
      const inputs = { q: draw.numbers(shape), k: draw.numbers(keys), v: draw.numbers(keys) };
      const slopes: Numbers = { shape: [2], values: [-3, 40] };
      const bias = draw.numbers([1, 1, 21, 50], () => 4 * (draw.integer(200) - 100));
      for (const options of [{ alibiSlopes: slopes }, { bias }, { alibiSlopes: slopes, bias, softcap: 3 }]) {
        const full: Options = { scale: 1, ...options };
        const got = await subject.attention(inputs, full);
        const truth = naiveAttention(problemOf(inputs, full, "float32"), dataOf(inputs, full, "float32"));
        agree("out", got.out, truth.out);
        agree("lse", got.lse, truth.lse);
      }
    },
  },
  {
    name: "a NaN or Inf in a value that a row sees makes that row NaN, and no other",
    capability: "nan",
    async run(subject) {
      const clean = random("visible nan", { Sq: 30, Skv: 30, D: 8 });
      const expected = await subject.attention(clean, { causal: true });
      for (const poison of [NaN, Infinity, -Infinity]) {
        const values = Float64Array.from(clean.v.values);
        for (const h of [0, 1]) values.fill(poison, (h * 30 + 17) * 8, (h * 30 + 18) * 8);
        const { out } = await subject.attention({ ...clean, v: { ...clean.v, values } }, { causal: true });
        for (let n = 0; n < 60; n++) {
          if (n % 30 >= 17)
            hold(row(out, n, 8).every(Number.isNaN), `row ${n} sees ${poison} and shows ${row(out, n, 8).join()}`);
          else same(`row ${n}`, row(out, n, 8), row(expected.out, n, 8));
        }
      }
    },
  },
  {
    name: "a visible NaN whose weight underflows, or is dropped, still makes its row NaN",
    capability: "nan",
    async run(subject) {
      const values = new Float64Array(8 * 4).fill(1);
      values.fill(NaN, 3 * 4, 4 * 4);
      const inputs: Inputs = {
        q: { shape: [1, 1, 2, 4], values: new Float64Array(8).fill(1) },
        k: {
          shape: [1, 1, 8, 4],
          values: Float64Array.from({ length: 32 }, (_, n) => (Math.floor(n / 4) === 3 ? -500 : 0)),
        },
        v: { shape: [1, 1, 8, 4], values },
      };
      // Key 5 is hidden, which makes the tile partial.
      const mask = bools([1, 1, 1, 8], ([, , , j]) => j !== 5);
      for (const options of [{ mask }, { mask, dropout: { p: 1, seed: 1 } }] as Options[]) {
        const { out } = await subject.attention(inputs, options);
        hold(out.every(Number.isNaN), `out is ${out.join()}`);
      }
    },
  },
  {
    name: "a row whose scores are all -Infinity is an empty row, whatever its values hold",
    capability: "nan",
    async run(subject) {
      const clean = random("all scores -Infinity", { Sq: 6, Skv: 20, D: 8 });
      const values = Float64Array.from(clean.v.values).fill(NaN, 0, 8);
      const bias: Numbers = {
        shape: [1, 1, 6, 20],
        values: Float64Array.from({ length: 120 }, (_, n) => (n < 20 ? -Infinity : 0)),
      };
      const { out, lse } = await subject.attention({ ...clean, v: { ...clean.v, values } }, { bias });
      hold(
        lse[0] === -Infinity && row(out, 0, 8).every((x) => x === 0),
        `out is ${row(out, 0, 8).join()}, lse ${lse[0]}`,
      );
      hold(row(out, 1, 8).every(Number.isNaN), "a row that weighs the NaN does not show it");
    },
  },
  {
    name: "a NaN key that a row sees makes that row's out and lse NaN, and no other row's",
    capability: "nan",
    async run(subject) {
      const clean = random("nan key", { Sq: 30, Skv: 30, D: 8 });
      const expected = await subject.attention(clean, { causal: true });
      const values = Float64Array.from(clean.k.values);
      for (const h of [0, 1]) values[(h * 30 + 17) * 8 + 3] = NaN;
      const { out, lse } = await subject.attention({ ...clean, k: { ...clean.k, values } }, { causal: true });
      for (let n = 0; n < 60; n++) {
        if (n % 30 >= 17) {
          hold(
            row(out, n, 8).every(Number.isNaN) && Number.isNaN(lse[n]),
            `row ${n} sees a NaN key and shows ${lse[n]}`,
          );
        } else {
          same(`row ${n}`, row(out, n, 8), row(expected.out, n, 8));
          hold(lse[n] === expected.lse[n], `lse of row ${n}`);
        }
      }
    },
  },
  {
    name: "float16, many tiles: NaN and Inf show in the elements of rows that see them, wherever the tile lies, and nowhere else",
    capability: "nan",
    async run(subject) {
      const [H, Sq, Skv, D] = [1, 200, 420, 64];
      const { q, k, v } = random("nan in many tiles", { H, Sq, Skv, D });
      const poisonedBy = (
        numbers: Numbers,
        ...at: readonly (readonly [key: number, element: number, value: number])[]
      ) => {
        const values = Float64Array.from(numbers.values);
        for (const [key, element, value] of at) values[key * D + element] = value;
        return { ...numbers, values };
      };
      // One in the first tile of most kernels, some in the middle, one near the diagonal of the last rows.
      const badV = poisonedBy(v, [3, 1, -Infinity], [200, 9, NaN], [300, 63, Infinity], [415, 0, NaN]);
      const badK = poisonedBy(k, [250, 7, NaN], [410, 0, NaN]);
      for (const inputs of [
        { q, k, v: badV },
        { q, k: badK, v },
      ]) {
        for (const options of [{}, { causal: true }, { window: [60, 10] }] as Options[]) {
          await holdsInHalves(subject, inputs, options);
        }
      }
    },
  },
  {
    name: "float16, keys that grow along the sequence: the max of a row comes last, and accuracy does not suffer",
    capability: "stability",
    async run(subject) {
      const [H, Sq, Skv, D] = [1, 150, 600, 64];
      const { q, k, v } = random("ramped keys", { H, Sq, Skv, D });
      for (const [first, last] of [
        [1, 10],
        [10, 1],
        [1, 60],
      ]) {
        const values = Float64Array.from(
          k.values,
          (x, n) => x * (first + ((last - first) * (Math.floor(n / D) % Skv)) / Skv),
        );
        const inputs = { q, k: { ...k, values }, v };
        for (const options of [{}, { causal: true }, { scale: 1 }] as Options[]) {
          await holdsInHalves(subject, inputs, options);
        }
      }
    },
  },
  {
    name: "logits of any finite size give finite, correct results",
    capability: "stability",
    async run(subject) {
      // Integer products and a power of two as scale: the scores are exact in float32 up to 2^24.
      for (const [scale, offset] of [
        [64, 0],
        [1024, 30],
        [2 ** 100, 0],
        [-(2 ** 80), 0],
        [2 ** -140, 0],
      ] as const) {
        const draw = new Random(`huge ${scale}`);
        const integers = (shape: number[], by: number): Numbers => draw.numbers(shape, () => draw.integer(7) - 3 + by);
        const inputs = {
          q: integers([1, 2, 33, 8], offset),
          k: integers([1, 2, 70, 8], 0),
          v: integers([1, 2, 70, 8], 0),
        };
        const { out, lse } = await subject.attention(inputs, { scale });
        const expected = hardmax(inputs, scale);
        agree(`out at scale ${scale}`, out, expected.out);
        agree(`lse at scale ${scale}`, lse, expected.lse);
      }
    },
  },
  {
    name: "the same inputs give the same bits, forward and backward, every run",
    capability: "determinism",
    async run(subject) {
      const problem = random("determinism", { Sq: 100, Skv: 130, D: 40, H: 4, Hkv: 2 });
      const options: Options = {
        causal: true,
        dropout: { p: 0.2, seed: 9 },
        bias: new Random("bias").numbers([1, 4, 100, 130]),
      };
      const first = await subject.backward(problem, problem.dout, options);
      for (let repeat = 0; repeat < 3; repeat++) {
        const again = await subject.backward(problem, problem.dout, options);
        for (const name of ["out", "lse", "dq", "dk", "dv", "dbias"] as const) same(name, first[name]!, again[name]!);
      }
    },
  },
  {
    name: "inputs are never modified",
    capability: "interface",
    async run(subject) {
      const { fa } = subject;
      const problem = random("inputs stay", { Sq: 20, Skv: 30, D: 16 });
      const names = ["q", "k", "v"] as const;
      const tensors = Object.fromEntries(names.map((name) => [name, subject.upload(problem[name], "float32")]));
      const { q, k, v } = tensors as Record<(typeof names)[number], Tensor>;
      using dout = subject.upload(problem.dout, "float32");
      const { out, lse } = await fa.attention(q, k, v, { returnLse: true, causal: true });
      const before = { out: await out.data(), lse: await lse.data() };
      const gradients = await fa.attentionBackward({ q, k, v, out, lse, dout }, { causal: true });
      for (const name of names) {
        same(name, await numbersOf(tensors[name]), Float64Array.from(problem[name].values));
        tensors[name].dispose();
      }
      same("dout", await numbersOf(dout), Float64Array.from(problem.dout.values));
      same("out", await out.data(), before.out);
      same("lse", await lse.data(), before.lse);
      for (const tensor of [out, lse, ...Object.values(gradients as object)]) (tensor as Tensor | undefined)?.dispose();
    },
  },
  {
    name: "one tensor may be q, k and v at once",
    capability: "interface",
    async run(subject) {
      const { q } = random("aliases", { Sq: 24, Skv: 24, D: 16 });
      const apart = await subject.attention({ q, k: q, v: q }, { causal: true });
      using x = subject.upload(q, "float32");
      const { out } = await subject.fa.attention(x, x, x, { causal: true });
      same("out", await numbersOf(out), apart.out);
      out.dispose();
    },
  },
  {
    name: "200 calls of different lengths at once each give their own right answer",
    capability: "interface",
    async run({ fa }) {
      const lengths = Array.from({ length: 200 }, (_, n) => n + 1);
      const results = await Promise.all(
        lengths.map(async (length) => {
          using x = fa.tensor(new Float32Array(length).fill(length), { shape: [length] });
          using y = await fa.cast(x, "bfloat16");
          return numbersOf(y);
        }),
      );
      for (const [n, got] of results.entries()) {
        hold(
          got.length === n + 1 && got.every((value) => value === n + 1),
          `the call of ${n + 1} elements gave ${got.slice(0, 3).join()}`,
        );
      }
    },
  },
  {
    name: "calls in flight together each give their own right answer",
    capability: "interface",
    async run(subject) {
      const problems = Array.from({ length: 25 }, (_, n) =>
        random(`in flight ${n}`, { Sq: 5 + n, Skv: 30 - n, D: 8 + n }),
      );
      const alone: Float64Array[] = [];
      for (const problem of problems) alone.push((await subject.attention(problem)).out);
      const together = await Promise.all(problems.map((problem) => subject.attention(problem)));
      for (const [n, { out }] of together.entries()) same(`call ${n}`, out, alone[n]);
    },
  },
  {
    name: "out of memory is FA_OUT_OF_MEMORY, and the next call is right",
    capability: "interface",
    async run(subject) {
      const problem = random("after out of memory", { Sq: 12, Skv: 12 });
      const before = await subject.attention(problem);
      const bytes = subject.fa.memory().currentBytes;
      let thrown: unknown;
      try {
        subject.fa.empty({ shape: [2 ** 20, 2 ** 20, 2 ** 8] });
      } catch (error) {
        thrown = error;
      }
      hold((thrown as FaError | undefined)?.code === "FA_OUT_OF_MEMORY", `2^48 elements gave ${String(thrown)}`);
      hold(subject.fa.memory().currentBytes === bytes, "the failed allocation kept memory");
      same("out", (await subject.attention(problem)).out, before.out);
    },
  },
  {
    name: "200 calls leave memory flat",
    capability: "interface",
    async run(subject) {
      const problem = random("flat", { Sq: 16, Skv: 16 });
      await subject.backward(problem, problem.dout);
      const { currentBytes } = subject.fa.memory();
      for (let call = 0; call < 200; call++) await subject.backward(problem, problem.dout);
      hold(
        subject.fa.memory().currentBytes === currentBytes,
        `${subject.fa.memory().currentBytes - currentBytes} bytes grew`,
      );
    },
  },
  {
    name: "tutorial mistake 1: blocks with different maxima are rescaled, not mixed",
    capability: "tutorial",
    async run(subject) {
      // Each key's score is one above the last: every block raises the max.
      const S = 96;
      const ramp = (dim: number, by: number): Numbers => ({
        shape: [1, S, dim],
        values: Float64Array.from({ length: S * dim }, (_, n) => (n % dim === 0 ? Math.floor(n / dim) * by : 0)),
      });
      const q = { shape: [1, S, 4], values: Float64Array.from({ length: S * 4 }, (_, n) => (n % 4 === 0 ? 1 : 0)) };
      const inputs = { q, k: ramp(4, 1), v: ramp(4, 1) };
      for (const blockSize of [1, 16, 64]) {
        const { out, lse } = await subject.attention(inputs, { scale: 1, blockSize });
        // softmax of 0..95 in steps of one: a geometric series.
        const ratio = Math.exp(-1);
        const l = (1 - ratio ** S) / (1 - ratio);
        let mean = 0;
        for (let n = 0; n < S; n++) mean += ((S - 1 - n) * ratio ** n) / l;
        agree(
          `out with block ${blockSize}`,
          out.filter((_, n) => n % 4 === 0),
          new Float64Array(S).fill(mean),
        );
        agree(`lse with block ${blockSize}`, lse, new Float64Array(S).fill(S - 1 + Math.log(l)));
      }
    },
  },
  {
    name: "tutorial mistake 2: dropout acts on probabilities, the row sum does not see it",
    capability: "tutorial",
    async run(subject) {
      // v = 1: out is the share of kept weight over (1 - p), which spreads around 1; a sum after dropout would give 1 / (1 - p) everywhere.
      const problem = random("row sum", { Sq: 64, Skv: 64, D: 8 });
      const ones = { ...problem.v, values: new Float64Array(problem.v.values.length).fill(1) };
      const plain = await subject.attention({ ...problem, v: ones });
      const dropped = await subject.attention({ ...problem, v: ones }, { dropout: { p: 0.5, seed: 3 } });
      const rows = dropped.out.filter((_, n) => n % 8 === 0);
      const mean = rows.reduce((sum, x) => sum + x, 0) / rows.length;
      hold(Math.max(...rows) - Math.min(...rows) > 0.1, `every row keeps the same weight, ${rows[0]}`);
      hold(Math.abs(mean - 1) < 0.1, `kept weights have mean ${mean} instead of 1`);
      same("lse", dropped.lse, plain.lse);
    },
  },
  {
    name: "tutorial mistake 3: nothing is added to the row sum",
    capability: "tutorial",
    async run(subject) {
      // A row that sees one key returns its value: dividing by l + 1e-6 would be 16 steps of float32 off.
      const problem = random("one key", { Sq: 40, Skv: 40, D: 8 });
      const { out, lse } = await subject.attention(problem, { window: [0, 0] });
      const { values } = problem.v;
      for (let n = 0; n < out.length; n++) {
        hold(Math.abs(out[n] - values[n]) <= 3e-7 * Math.abs(values[n]), `element ${n}: ${out[n]}, v is ${values[n]}`);
      }
      hold(lse.every(Number.isFinite), "lse is not finite");
    },
  },
  {
    name: "the tutorial's interface works: [B, N, D] inputs, blockSize, dropout",
    capability: "tutorial",
    async run(subject) {
      const draw = new Random("tutorial");
      const shape = [2, 256, 64];
      const inputs = { q: draw.numbers(shape), k: draw.numbers(shape), v: draw.numbers(shape) };
      const dropout = { p: 0.1, seed: 1 };
      const planned = await subject.attention(inputs, { dropout });
      const forced = await subject.attention(inputs, { dropout, blockSize: 64 });
      agree("out", forced.out, planned.out);
      hold(forced.lse.length === 2 * 256, "lse is not [2, 1, 256]");
    },
  },
];

interface RandomProblem extends Inputs {
  readonly dout: Numbers;
}

interface Sizes {
  readonly B?: number;
  readonly H?: number;
  readonly Hkv?: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D?: number;
}

function random(name: string, { B = 1, H = 2, Hkv = H, Sq, Skv, D = 8 }: Sizes): RandomProblem {
  const draw = new Random(name);
  return {
    q: draw.numbers([B, H, Sq, D]),
    k: draw.numbers([B, Hkv, Skv, D]),
    v: draw.numbers([B, Hkv, Skv, D]),
    dout: draw.numbers([B, H, Sq, D]),
  };
}

type Index = readonly [number, number, number, number];

function bools(shape: Index, visible: (index: Index) => boolean): Numbers {
  const [, H, I, J] = shape;
  const elements = shape.reduce((product, size) => product * size, 1);
  const values = Uint8Array.from({ length: elements }, (_, n) =>
    visible([Math.floor(n / (H * I * J)), Math.floor(n / (I * J)) % H, Math.floor(n / J) % I, n % J]) ? 1 : 0,
  );
  return { shape, values, dtype: "bool" };
}

function row(values: Float64Array, n: number, length: number): number[] {
  return [...values.subarray(n * length, (n + 1) * length)];
}

/** Every fifth key, from 2 on, overwritten: those that the mask of the NaN check hides from all. */
function poisoned(numbers: Numbers, keys: number, dim: number, poison: number): Numbers {
  const values = Float64Array.from(numbers.values);
  for (let n = 0; n < values.length / dim; n++) {
    if ((n % keys) % 5 === 2) values.fill(poison, n * dim, (n + 1) * dim);
  }
  return { ...numbers, values };
}

/** float16 attention errs by no more than the naive one in that type may. */
async function holdsInHalves(subject: Subject, inputs: Inputs, options: Options): Promise<void> {
  const problem = problemOf(inputs, options, "float16");
  const data = dataOf(inputs, options, "float16");
  const truth = naiveAttention(problem, data);
  const naive = naiveAttention(problem, data, (x) => roundTo("float16", x));
  const { out, lse, scores } = await subject.attention(inputs, options, "float16");
  agree("out", out, truth.out, { dtype: "float16", naive: naive.out, scores });
  agree("lse", lse, truth.lse, { scores });
}

/** Attention in float64 with the max subtracted before anything is scaled, exact for integer products. */
function hardmax({ q, k, v }: Inputs, scale: number) {
  const [, H, Sq, D] = q.shape as [number, number, number, number];
  const Skv = k.shape[2];
  const out = new Float64Array(H * Sq * D);
  const lse = new Float64Array(H * Sq);
  for (let r = 0; r < H * Sq; r++) {
    const h = Math.floor(r / Sq);
    const s = Array.from({ length: Skv }, (_, j) => {
      let product = 0;
      for (let d = 0; d < D; d++) product += q.values[r * D + d] * k.values[(h * Skv + j) * D + d];
      return scale * product;
    });
    const m = Math.max(...s);
    const P = s.map((x) => Math.exp(x - m));
    const l = P.reduce((sum, x) => sum + x, 0);
    for (let j = 0; j < Skv; j++) {
      for (let d = 0; d < D; d++) out[r * D + d] += (P[j] / l) * v.values[(h * Skv + j) * D + d];
    }
    lse[r] = m + Math.log(l);
  }
  return { out, lse };
}
