// The libraries themselves, each in a process of its own, as far as they are installed.

import { afterEach, describe, expect, test } from "vitest";
import { ContestantError, type Contestant } from "../src/contest.ts";
import { gridCase } from "../src/matches.ts";
import { onnxModel } from "../src/peers/onnx.ts";
import { askAlone, Remote, remoteContestant, remoteGauge } from "../src/peers/remote.node.ts";
import { numbersOf, truthOf } from "../src/truth.ts";
import { attentionCase } from "../src/cases.ts";

const open: Contestant[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});
function contestant(library: "ours" | "onnxruntime-web" | "jax-js" | "tfjs-wasm", threads = 1): Contestant {
  const made = remoteContestant(`${library}/${threads}`, library, { library, threads });
  open.push(made);
  return made;
}

describe.each(["ours", "onnxruntime-web", "jax-js", "tfjs-wasm"] as const)("%s", (library) => {
  test("gives the float64 reference's answer, causal and not", async (context) => {
    const player = contestant(library);
    try {
      await player.open();
    } catch (error) {
      if (library !== "ours" && (error as Error).message.startsWith("not installed: npm install ")) {
        return context.skip((error as Error).message);
      }
      throw error;
    }
    for (const causal of [false, true]) {
      const item = gridCase(80, 64, causal, 3);
      const placed = await player.place(item);
      const { results, ms } = await placed.first();
      expect(truthOf(item, numbersOf(item)).check(results)).toMatchObject({ ok: true });
      expect(ms).toBeGreaterThan(0);
      expect(await placed.sample(2)).toBeGreaterThan(0);
      await placed.free();
    }
  });
});

test("our backward is checked by the first and the last head", async () => {
  const item = attentionCase({ group: "contest", name: "b", title: "b", pass: "backward", q: [1, 4, 48, 64] });
  const truth = truthOf(item, numbersOf(item));
  const placed = await contestant("ours").place(item);
  const { results } = await placed.first();
  expect(truth.check(results)).toMatchObject({
    ok: true,
    against: "float64 reference, the first and the last of 4 heads",
  });
  for (const [n, ok] of [
    [0, false],
    [-1, false],
  ] as const) {
    const dk = Float32Array.from(results.dk);
    dk[n < 0 ? dk.length - 1 : n] += 0.01;
    expect(truth.check({ ...results, dk }).ok).toBe(ok);
  }
  expect(truth.check({ dq: results.dq, dv: results.dv }).ok).toBe(false);
});

describe("a process of its own", () => {
  test("what the library complains about is the reason", async () => {
    const refused = contestant("ours", 0).open();
    await expect(refused).rejects.toThrow(ContestantError);
    await expect(refused).rejects.toThrow(/wasm\(threads\): threads must be an integer from 1; got 0/);
  });

  test("one that dies says so, and a contestant starts another", async () => {
    const remote = new Remote();
    await remote.close();
    await expect(remote.ask("free", 0)).rejects.toThrow(/^its process ended, SIGKILL/);

    const player = contestant("ours");
    await player.open();
    await player.close();
    const placed = await player.place(gridCase(16, 64, false, 1));
    expect((await placed.first()).peakBytes).toBeGreaterThan(0);
  });

  test("one that does not answer in time is ended", async () => {
    const remote = new Remote();
    const item = gridCase(4096, 64, false, 1);
    await expect(remote.ask("gauge", { name: "relaxed", item }, 1)).rejects.toThrow(/^no answer in 0.001 s/);
    await remote.close();
  });

  test("the gauges read what the machine does, and a start-up is timed", async () => {
    const { gauge, close } = remoteGauge();
    const item = gridCase(256, 64, false);
    for (const [name, least] of [
      ["relaxed", 1],
      ["plain", 1],
      ["read", 1e8],
    ] as const) {
      expect(await gauge(name, item), name).toBeGreaterThan(least);
    }
    await close();
    expect(await askAlone("startUp", { item: gridCase(64, 64, false) })).toBeGreaterThan(0);
  });
});

test("an ONNX model is the protobuf that its fields say, long ones too", () => {
  const name = "n".repeat(200);
  const model = onnxModel({
    operator: "Attention",
    domain: "",
    opset: 23,
    attributes: { is_causal: 1 },
    inputs: { [name]: [1, 8, 4096, 64] },
    outputs: { out: [1] },
  });
  const [ir] = fields(model, 1) as number[];
  const [graph] = fields(model, 7) as Uint8Array[];
  const [node] = fields(graph, 1) as Uint8Array[];
  const [input] = fields(graph, 11) as Uint8Array[];
  const text = (bytes: unknown): string => new TextDecoder().decode(bytes as Uint8Array);
  expect(ir).toBe(10);
  expect(text(fields(node, 4)[0])).toBe("Attention");
  expect(text(fields(node, 1)[0])).toBe(name);
  expect(text(fields(input, 1)[0])).toBe(name);
  const tensor = fields(fields(input, 2)[0] as Uint8Array, 1)[0] as Uint8Array;
  const dimensions = fields(fields(tensor, 2)[0] as Uint8Array, 1) as Uint8Array[];
  expect(dimensions.map((one) => fields(one, 1)[0])).toEqual([1, 8, 4096, 64]);
  const [opset] = fields(model, 8) as Uint8Array[];
  expect(fields(opset, 2)).toEqual([23]);
});

test("a chain of nodes hands its first tensor on and shares the others", () => {
  const model = onnxModel({
    operator: "MultiHeadAttention",
    domain: "com.microsoft",
    opset: 1,
    attributes: { num_heads: 2 },
    inputs: { q: [1, 4, 8], k: [1, 4, 8] },
    outputs: { out: [1, 4, 8] },
    types: { q: "float16", out: "float16" },
    chain: 3,
  });
  const text = (bytes: unknown): string => new TextDecoder().decode(bytes as Uint8Array);
  const [graph] = fields(model, 7) as Uint8Array[];
  const nodes = fields(graph, 1) as Uint8Array[];
  const named = (field: number) => nodes.map((node) => fields(node, field).map(text));
  expect(named(1)).toEqual([
    ["q", "k"],
    ["out0", "k"],
    ["out1", "k"],
  ]);
  expect(named(2)).toEqual([["out0"], ["out1"], ["out"]]);
  const types = [...fields(graph, 11), ...fields(graph, 12)].map((info) => {
    const tensor = fields(fields(info as Uint8Array, 2)[0] as Uint8Array, 1)[0] as Uint8Array;
    return fields(tensor, 1)[0];
  });
  expect(types).toEqual([10, 1, 10]);
});

/** The values of a field of a protobuf message: numbers, or bytes. */
function fields(bytes: Uint8Array, wanted: number): (number | Uint8Array)[] {
  const values: (number | Uint8Array)[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    let value: number | Uint8Array = varint();
    if (key % 8 === 2) value = bytes.subarray(at, (at += value));
    if (Math.floor(key / 8) === wanted) values.push(value);
  }
  return values;
}
