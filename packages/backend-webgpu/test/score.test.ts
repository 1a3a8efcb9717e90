import {
  attentionProblem,
  dropoutMask,
  inBand,
  keepScale,
  keyRange,
  philox4x32,
  rowRange,
  step,
  type AttentionOptionsOf,
  type AttentionProblem,
  type TensorSpec,
} from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { Words } from "../src/kernels/row.ts";
import { scoreParams, scoreWords } from "../src/kernels/score.ts";
import { runPasses, softwareDevice } from "./passes.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await softwareDevice();
});

const SIZES = { B: 2, H: 3, Sq: 37, Skv: 53 };
const { B, H, Sq, Skv } = SIZES;

function problemOf(options: AttentionOptionsOf<TensorSpec>): AttentionProblem {
  const tensor = (length: number): TensorSpec => ({ shape: [B, H, length, 8], dtype: "float32" });
  return attentionProblem({ q: tensor(Sq), k: tensor(Skv), v: tensor(Skv) }, options);
}

/** Words that `body` writes to `results[n]`, n < count, with `b`, `h`, `i` and `j` of element n of [B, H, Sq, Skv]. */
async function evaluate(
  problem: AttentionProblem,
  body: string,
  tensors: Readonly<Record<string, Uint8Array>> = {},
  count = B * H * Sq * Skv,
): Promise<Uint32Array> {
  const names = Object.keys(tensors);
  const shader = `//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
struct Args { launch: Launch, score: Score }
@group(0) @binding(0) var<uniform> args: Args;
${names.map((name, n) => `@group(0) @binding(${n + 1}) var<storage, read> ${name}: array<u32>;`).join("\n")}
@group(0) @binding(${names.length + 1}) var<storage, read_write> results: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let n = id.x;
  if (n >= ${count}u || args.score.heads == 0u) { return; }
  let j = n % ${Skv}u;
  let i = n / ${Skv}u % ${Sq}u;
  let h = n / ${Skv * Sq}u % ${H}u;
  let b = n / ${Skv * Sq * H}u;
  let head = head_of(b, h);
  ${body}
}`;
  const pass = {
    shader,
    params: scoreParams(problem),
    uniforms: scoreWords(new Words(), problem).build(),
    buffers: [...names, "results"].map((name) => ({ name })),
    workgroups: Math.ceil(count / 64),
    flops: 0,
  };
  const { results } = await runPasses(device, [pass], { ...tensors, results: new Uint8Array(count * 4) }, ["results"]);
  return new Uint32Array(results.buffer);
}

/** Every element of [B, H, Sq, Skv] in order. */
function* elements(): Generator<readonly [n: number, b: number, h: number, i: number, j: number]> {
  for (let n = 0; n < B * H * Sq * Skv; n++) {
    yield [n, Math.floor(n / (Skv * Sq * H)), Math.floor(n / (Skv * Sq)) % H, Math.floor(n / Skv) % Sq, n % Skv];
  }
}

describe("philox", () => {
  test("seven rounds give the words of the reference", async () => {
    const body =
      "if (n % 4u == 0u) { let w = philox(vec4u(n, ~n, n * 77777u, 5u), vec2u(n * 3u, 0xdeadbeefu - n)); for (var x = 0u; x < 4u; x++) { results[n + x] = w[x]; } }";
    const got = await evaluate(problemOf({}), body, {}, 4096);
    for (let n = 0; n < 4096; n += 4) {
      const words = philox4x32([n, ~n >>> 0, Math.imul(n, 77777) >>> 0, 5], [(n * 3) >>> 0, (0xdeadbeef - n) >>> 0]);
      expect(got.slice(n, n + 4)).toEqual(words);
    }
  });

  test("dropout keeps the elements that the reference keeps, one by one and by eights", async () => {
    const problem = problemOf({ dropout: { p: 0.4, seed: 2n ** 63n + 12345n, offset: 9 } });
    const dropout = step(problem.program, "dropout")!;
    const factors = await evaluate(problem, "results[n] = bitcast<u32>(dropout_factor(head, i, j));");
    const eights = await evaluate(problem, "results[n] = extractBits(kept_bits(head, i, j / 8u), j % 8u, 1u);");
    const [kept, dropped] = [keepScale(0.4), 0].map((x) => new Uint32Array(Float32Array.of(x).buffer)[0]);
    const keeps = Array.from({ length: B * H }, (_, n) => dropoutMask(dropout, n));
    for (const [n, b, h, i, j] of elements()) {
      const keep = keeps[b * H + h](i, j);
      if (factors[n] !== (keep ? kept : dropped) || eights[n] !== Number(keep)) {
        expect.fail(`element ${n}: ${factors[n]}, ${eights[n]}, kept ${keep}`);
      }
    }
  });
});

describe("visibility", () => {
  test.each([
    {},
    { causal: true },
    { causal: "top-left" },
    { window: [4, 9] },
    { window: [-1, 0], causal: "top-left" },
    { window: [0, -1] },
  ] as AttentionOptionsOf<TensorSpec>[])(
    "%j: ranges, bits and single pairs are those of the reference",
    async (options) => {
      const problem = problemOf(options);
      const { band } = step(problem.program, "visibility") ?? { band: { lo: -Infinity, hi: Infinity } };
      const bits = await evaluate(
        problem,
        "results[n] = band_bits(i, j, 3u, 51u) | (select(0u, 1u, visible(head, i, j)) << 8u);",
      );
      const keys = await evaluate(
        problem,
        "let r = key_range(min(i, j), max(i, j), 53u); results[n] = r.begin | (r.full_begin << 8u) | (r.full_end << 16u) | (r.end << 24u);",
      );
      const rows = await evaluate(
        problem,
        "let r = row_range(min(i, j), max(i, j), 37u); results[n] = r.begin | (r.full_begin << 8u) | (r.full_end << 16u) | (r.end << 24u);",
      );
      const packed = ({ begin, fullBegin, fullEnd, end }: ReturnType<typeof keyRange>): number =>
        (begin | (fullBegin << 8) | (fullEnd << 16) | (end << 24)) >>> 0;
      for (const [n, , , i, j] of elements()) {
        let expected = Number(inBand(band, i, j)) << 8;
        for (let x = 0; x < 8; x++) if (j + x >= 3 && j + x < 51 && inBand(band, i, j + x)) expected |= 1 << x;
        const [first, last] = [Math.min(i, j), Math.max(i, j)];
        if (bits[n] !== expected) expect.fail(`bits of (${i}, ${j}): ${bits[n]}, expected ${expected}`);
        if (keys[n] !== packed(keyRange(band, first, last + 1, Skv))) expect.fail(`keys of rows ${first} to ${last}`);
        if (rows[n] !== packed(rowRange(band, first, last + 1, Sq))) expect.fail(`rows of keys ${first} to ${last}`);
      }
    },
  );

  test.each([
    [B, H, Sq, Skv],
    [1, H, 1, Skv],
    [B, 1, Sq, 1],
    [1, 1, 1, 1],
  ])("a mask [%i, %i, %i, %i] is read 32 keys at a time and one by one", async (...shape) => {
    const problem = problemOf({ mask: { shape, dtype: "bool" } });
    const { strides } = step(problem.program, "visibility")!.mask!;
    const size = shape.reduce((product, x) => product * x, 1);
    const mask = Uint8Array.from(
      { length: size + 3 },
      (_, n) => ((n * 7) % 11 < 5 ? 0 : n % 255) + 1 - Number((n * 7) % 11 < 5),
    );
    const bits = await evaluate(problem, "results[n] = mask_bits(head, i, j);", { mask });
    const single = await evaluate(problem, "results[n] = select(0u, 1u, visible(head, i, j));", { mask });
    const at = (b: number, h: number, i: number, j: number): number =>
      Number(mask[b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3]] !== 0);
    for (const [n, b, h, i, j] of elements()) {
      if (single[n] !== at(b, h, i, j)) expect.fail(`(${b}, ${h}, ${i}, ${j}) alone`);
      for (let x = 0; x < Math.min(32, Skv - j); x++) {
        if (((bits[n] >>> x) & 1) !== at(b, h, i, j + x)) expect.fail(`(${b}, ${h}, ${i}, ${j} + ${x})`);
      }
    }
  });
});

test("scores are those of the program, to float32 rounding", async () => {
  const bias = Float32Array.from({ length: B * H * Skv }, (_, n) => (n % 13 === 5 ? -Infinity : Math.sin(n) * 9));
  const slopes = Float32Array.of(0.5, -3, 0.01, 1, 2, 0.25);
  const problem = problemOf({
    scale: 0.37,
    softcap: 4,
    bias: { shape: [B, H, 1, Skv], dtype: "float32" },
    alibiSlopes: { shape: [B, H], dtype: "float32" },
  });
  const tensors = { bias: new Uint8Array(bias.buffer), alibi_slopes: new Uint8Array(slopes.buffer) };
  const qk = (n: number): number => ((n % 401) - 200) / 16;
  const words = await evaluate(
    problem,
    "results[n] = bitcast<u32>(score(head, f32(i32(n % 401u) - 200) / 16.0, i, j));",
    tensors,
  );
  const got = new Float32Array(words.buffer);
  for (const [n, b, h, i, j] of elements()) {
    const term = bias[(b * H + h) * Skv + j];
    const slope = slopes[b * H + h];
    const expected =
      term === -Infinity
        ? Math.fround(-3e38)
        : 4 * Math.tanh((0.37 * qk(n)) / 4) + term - slope * Math.abs(i + Skv - Sq - j);
    if (!(Math.abs(got[n] - expected) <= 3e-7 * (4 + Math.abs(term) + Math.abs(slope) * Skv))) {
      if (term !== -Infinity || got[n] !== expected)
        expect.fail(`(${b}, ${h}, ${i}, ${j}): ${got[n]}, not ${expected}`);
    }
  }
});
