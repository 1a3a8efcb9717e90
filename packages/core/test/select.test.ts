import { describe, expect, test } from "vitest";
import type { Backend, BackendProvider } from "../src/backend.ts";
import { createAttention, reference } from "../src/index.ts";
import { newRecording, recording } from "./recording.ts";

/** The reference under another name, with some of its methods changed, and a record of what it was asked. */
function candidate(name: string, change: (backend: Backend) => Partial<Backend> = () => ({})) {
  const record = newRecording();
  const provider = recording({ ...reference(), name }, record, (backend) => ({ name, ...change(backend) }));
  return { provider, record };
}

const refusing = (name: string, reason?: string): BackendProvider => ({
  name,
  probe: async () => ({ ok: false, reason }),
  open: () => Promise.reject(new Error("opened though its probe failed")),
});

describe("preference: the first whose probe passes", () => {
  test("is taken; those before it say why not, those after it were not tried", async () => {
    const second = candidate("second");
    const third = candidate("third");
    const backends = [refusing("first", "no driver"), second.provider, third.provider];
    await using fa = await createAttention({ backends });
    expect(fa.backend.name).toBe("second");
    expect(fa.report).toEqual([
      { name: "first", ok: false, taken: false, reason: "no driver", device: undefined },
      { name: "second", ok: true, taken: true, reason: "the first that works", device: "pure TypeScript, float64" },
      { name: "third", ok: false, taken: false, reason: "not tried: second comes before it and works" },
    ]);
    expect(third.record).toMatchObject({ probes: 0, opens: 0 });
  });

  test("whose probe has a remark, says it", async () => {
    const remark: BackendProvider = { ...reference(), probe: async () => ({ ok: true, reason: "one thread only" }) };
    await using fa = await createAttention({ backends: [remark] });
    expect(fa.report).toMatchObject([{ taken: true, reason: "one thread only" }]);
  });

  test.each<[string, BackendProvider, string]>([
    ["its probe throws", { ...refusing("x"), probe: () => Promise.reject(new Error("probe broke")) }, "probe broke"],
    [
      "its probe throws before it returns a promise",
      {
        ...refusing("x"),
        probe() {
          throw new Error("probe broke");
        },
      },
      "probe broke",
    ],
    ["its probe throws what is no Error", { ...refusing("x"), probe: () => Promise.reject("just so") }, "just so"],
    ["its probe fails without a reason", refusing("x"), "its probe failed without a reason"],
    [
      "opening it fails",
      { ...refusing("x"), probe: async () => ({ ok: true }), open: () => Promise.reject(new Error("device is busy")) },
      "device is busy",
    ],
  ])("moves on to the next when %s", async (_, broken, reason) => {
    await using fa = await createAttention({ backends: [broken, reference()] });
    expect(fa.backend.name).toBe("reference");
    expect(fa.report).toMatchObject([
      { name: "x", ok: false, taken: false, reason },
      { name: "reference", ok: true, taken: true },
    ]);
  });

  test("the report and the facts about the back end cannot be changed", async () => {
    await using fa = await createAttention({ backends: [reference()] });
    expect([Object.isFrozen(fa.report), Object.isFrozen(fa.backend)]).toEqual([true, true]);
  });
});

describe("measured: the fastest on the problem", () => {
  const problem = { B: 1, H: 1, Sq: 8, D: 4 } as const;
  const slowedBy = (ms: number) => (backend: Backend) => ({
    async run(...args: Parameters<Backend["run"]>) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await backend.run(...args);
    },
  });

  test("is taken wherever it stands in the list, and the others are disposed", async () => {
    for (const [first, last] of [
      [1, 25],
      [25, 1],
    ] as const) {
      const one = candidate("one", slowedBy(first));
      const two = candidate("two", slowedBy(last));
      await using fa = await createAttention({ backends: [one.provider, two.provider], select: "measured", problem });
      const fast = first < last ? "one" : "two";
      expect(fa.backend.name).toBe(fast);
      for (const { name, ok, taken, reason, ms } of fa.report) {
        expect({ ok, taken }).toEqual({ ok: true, taken: name === fast });
        expect(reason).toBe(`${name === fast ? "the fastest: " : ""}${ms?.toFixed(3)} ms`);
      }
      expect([one.record.disposals, two.record.disposals]).toEqual(fast === "one" ? [0, 1] : [1, 0]);
      expect([one.record.live.size, two.record.live.size][fast === "one" ? 0 : 1]).toBe(0);
    }
  });

  /** Changes the first element of every result. */
  const wrongBy = (difference: number) => (backend: Backend) => ({
    async read(...args: Parameters<Backend["read"]>) {
      const bytes = await backend.read(...args);
      new Float32Array(bytes.buffer)[0] += difference;
      return bytes;
    },
  });

  test.each([
    ["off", 0.01],
    ["NaN", NaN],
    ["infinite", Infinity],
  ])("one whose result is %s is dropped, however fast", async (_, difference) => {
    const right = candidate("right", slowedBy(10));
    const wrong = candidate("wrong", wrongBy(difference));
    await using fa = await createAttention({ backends: [right.provider, wrong.provider], select: "measured", problem });
    expect(fa.report).toMatchObject([
      { name: "right", taken: true },
      { name: "wrong", ok: false, taken: false, reason: expect.stringContaining("its result is off by") },
    ]);
    expect(wrong.record.disposals).toBe(1);
  });

  test("one that gives NaN is dropped though nothing came before it to compare with", async () => {
    const wrong = candidate("wrong", wrongBy(NaN));
    await using fa = await createAttention({ backends: [wrong.provider, reference()], select: "measured", problem });
    expect(fa.report).toMatchObject([{ ok: false }, { name: "reference", taken: true }]);
  });

  test("one that cannot run the problem says why; one that breaks, with what", async () => {
    const small = candidate("small", (backend) => ({ capabilities: { ...backend.capabilities, maxHeadDim: 2 } }));
    const broken = candidate("broken", () => ({ run: () => Promise.reject(new Error("shader lost")) }));
    const backends = [small.provider, refusing("absent", "not installed"), broken.provider, reference()];
    await using fa = await createAttention({ backends, select: "measured", problem });
    expect(fa.report).toMatchObject([
      { name: "small", ok: false, taken: false, reason: "takes head dims 1 to 2, not 4" },
      { name: "absent", ok: false, taken: false, reason: "not installed" },
      { name: "broken", ok: false, taken: false, reason: "shader lost" },
      { name: "reference", ok: true, taken: true },
    ]);
    expect([small.record.disposals, broken.record.disposals]).toEqual([1, 1]);
  });

  test("options and dtype of the problem are what is measured", async () => {
    const dtypes: string[] = [];
    const spy = candidate("spy", (backend) => ({
      run(plan, bindings) {
        if (plan.problem.op === "attention")
          dtypes.push(`${plan.problem.dtype} ${plan.problem.layout} ${plan.problem.program.length}`);
        return backend.run(plan, bindings);
      },
    }));
    const halves = { ...problem, dtype: "bfloat16", options: { causal: true, layout: "bshd" } } as const;
    await using fa = await createAttention({ backends: [spy.provider], select: "measured", problem: halves });
    expect(fa.report).toMatchObject([{ taken: true }]);
    expect(new Set(dtypes)).toEqual(new Set(["bfloat16 bshd 2"]));
  });

  test("a problem with nothing in it is measured too", async () => {
    await using fa = await createAttention({
      backends: [reference()],
      select: "measured",
      problem: { ...problem, Sq: 0 },
    });
    expect(fa.report).toMatchObject([{ taken: true, ms: expect.any(Number) }]);
  });

  test("a malformed problem is refused before anything is opened", async () => {
    const { provider, record } = candidate("x");
    const create = createAttention({ backends: [provider], select: "measured", problem: { D: 257 } });
    await expect(create).rejects.toMatchObject({ code: "FA_UNSUPPORTED" });
    expect(record).toMatchObject({ probes: 0, opens: 0 });
  });
});
