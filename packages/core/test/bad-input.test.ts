import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createAttention as autoCreateAttention } from "../src/auto.ts";
import { createAttention, FaError, reference, type Attention, type DType, type Tensor } from "../src/index.ts";
import { readSafetensors, writeSafetensors } from "../src/safetensors.ts";
import { BAD_INPUTS, type Loose, type World } from "./bad-input.cases.ts";
import { newRecording, recording } from "./recording.ts";

const SHAPE = [1, 2, 3, 4];
const numbers = (seed: number): Float32Array => Float32Array.from({ length: 24 }, (_, n) => Math.sin(n * 1.7 + seed));

/** Counts what is asked of every back end that a case can reach. */
const record = newRecording();
const recorded: Loose["reference"] = (options) => recording(reference(options as never), record);

let fa: Attention;
let world: World;
let made: Tensor[] = [];
let goodOut: Float32Array;

const attend = async (): Promise<Float32Array> => {
  const { out } = await fa.attention(world.q, world.k, world.v, { causal: true });
  const numbersOut = (await out.data()) as Float32Array;
  out.dispose();
  return numbersOut;
};

beforeAll(async () => {
  fa = await createAttention({ backends: [recording(reference(), record)] });
  const other = await createAttention({ backends: [reference()] });
  const closed = await createAttention({ backends: [recording(reference(), record)] });
  const tensorOfIt = closed.tensor(numbers(9), { shape: SHAPE });
  await closed.dispose();
  record.live.clear();
  const of = (shape: readonly number[], dtype?: DType): Tensor => {
    const tensor = fa.empty({ shape, dtype });
    made.push(tensor);
    return tensor;
  };
  world = {
    createAttention: createAttention as Loose["createAttention"],
    autoCreateAttention: autoCreateAttention as Loose["createAttention"],
    reference: recorded,
    readSafetensors: readSafetensors as Loose["readSafetensors"],
    writeSafetensors: writeSafetensors as Loose["writeSafetensors"],
    fa: fa as unknown as Loose["fa"],
    q: fa.tensor(numbers(0), { shape: SHAPE }),
    k: fa.tensor(numbers(1), { shape: SHAPE }),
    v: fa.tensor(numbers(2), { shape: SHAPE }),
    foreign: other.tensor(numbers(3), { shape: SHAPE }),
    closed: Object.assign(closed as unknown as Loose["fa"], { tensorOfIt }),
    of,
    disposed(shape, dtype) {
      const tensor = of(shape, dtype);
      tensor.dispose();
      return tensor;
    },
  };
  goodOut = await attend();
});

afterAll(() => fa.dispose());

/** What a call throws or rejects with. */
async function errorOf(run: () => unknown): Promise<unknown> {
  try {
    await run();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("bad input is refused before anything is touched, saying where, the rule, what came and what to do", () => {
  test.each(BAD_INPUTS.map((row) => [row.name, row] as const))(
    "%s",
    async (_, { run, code, where, rule, got, fix }) => {
      const { opens, allocations, runs, reads } = record;
      const live = record.live.size;
      const { currentBytes } = fa.memory();

      const error = await errorOf(() => run(world));

      expect(error).toBeInstanceOf(FaError);
      expect(error).toMatchObject({ code });
      const { message } = error as FaError;
      expect(message.slice(0, where.length + 2)).toBe(`${where}: `);
      const [rulePart, ...rest] = message.split("; got ");
      expect(rulePart).toContain(rule);
      const gotAndFix = rest.join("; got ");
      expect(gotAndFix.slice(0, got.length)).toBe(got);
      expect(gotAndFix.slice(got.length)).toContain(fix);
      expect(gotAndFix).toMatch(/[.?]$/);

      // Nothing was touched: nothing opened, run, read or allocated but the tensors that the case itself made.
      expect(record).toMatchObject({ opens, allocations: allocations + made.length, runs, reads });
      for (const tensor of made) tensor.dispose();
      made = [];
      expect(record.live.size).toBe(live);
      expect(fa.memory().currentBytes).toBe(currentBytes);
      expect([await world.q.data(), await world.k.data(), await world.v.data()]).toEqual([
        numbers(0),
        numbers(1),
        numbers(2),
      ]);
      expect(await attend()).toEqual(goodOut);
    },
  );

  test("the table has at least 150 rows, each with a name of its own", () => {
    const names = BAD_INPUTS.map(({ name }) => name);
    expect(names.length).toBeGreaterThanOrEqual(150);
    expect(new Set(names).size).toBe(names.length);
  });
});

describe("what comes from the caller is copied or passed through", () => {
  const shape = [4];

  test("a view on a SharedArrayBuffer is accepted and copied", async () => {
    const data = new Float32Array(new SharedArrayBuffer(16));
    data.set([1, 2, 3, 4]);
    using tensor = fa.tensor(data, { shape });
    data.fill(9);
    expect(await tensor.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test("a view on part of a buffer gives that part alone", async () => {
    using tensor = fa.tensor(Float32Array.of(0, 1, 2, 3, 4, 5).subarray(1, 5), { shape });
    expect(await tensor.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test("an array changed right after tensor() changes nothing", async () => {
    const data = Float32Array.of(1, 2, 3, 4);
    using tensor = fa.tensor(data, { shape });
    data.fill(NaN);
    expect(await tensor.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test("an array transferred right after tensor() changes nothing", async () => {
    const data = Float32Array.of(1, 2, 3, 4);
    using tensor = fa.tensor(data, { shape });
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(data.length).toBe(0);
    expect(await tensor.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test("what data() gives is the caller's to change", async () => {
    using tensor = fa.tensor(Float32Array.of(1, 2, 3, 4), { shape });
    ((await tensor.data()) as Float32Array).fill(7);
    expect(await tensor.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  });

  test("a shape changed after the call changes nothing", () => {
    const mutable = [2, 2];
    using tensor = fa.tensor(new Float32Array(4), { shape: mutable });
    mutable[0] = 7;
    expect(tensor.shape).toEqual([2, 2]);
    expect(Object.isFrozen(tensor.shape)).toBe(true);
  });

  test("an option whose getter throws passes the caller's own error on", async () => {
    const mine = new RangeError("mine");
    const options = {
      get causal(): boolean {
        throw mine;
      },
    };
    expect(await errorOf(() => fa.attention(world.q, world.k, world.v, options))).toBe(mine);
  });
});
