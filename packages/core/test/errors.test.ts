import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FaError, nearest, refuse, show } from "../src/errors.ts";

describe("nearest", () => {
  const known = ["scale", "causal", "window", "softcap", "blockSize"];

  test.each([
    ["a letter left out", "casal", "causal"],
    ["a letter too many", "causall", "causal"],
    ["two letters swapped", "casual", "causal"],
    ["other capitals", "BLOCKSIZE", "blockSize"],
    ["an underscore", "block_size", "blockSize"],
    ["a word before it", "isCausal", "causal"],
    ["a word after it", "windowSize", "window"],
  ])("%s: the name that was meant", (_, name, meant) => {
    expect(nearest(name, known)).toBe(meant);
  });

  test.each(["", "x", "temperature", "zzzzz"])("%j is like none of them: nothing is suggested", (name) => {
    expect(nearest(name, known)).toBeUndefined();
  });

  test("a short name of which no letter is left is not suggested", () => {
    expect(nearest("zz", ["q", "kv"])).toBeUndefined();
    expect(nearest("kb", ["q", "kv"])).toBe("kv");
  });

  test("half of the letters may differ, or two of a short name, and no more", () => {
    expect([nearest("cxxxal", known), nearest("cxxxxl", known)]).toEqual(["causal", undefined]);
    expect([nearest("sxxl", ["seal"]), nearest("sxxx", ["seal"])]).toEqual(["seal", undefined]);
  });

  test("of two that are near, the nearer", () => {
    expect(nearest("dkv", ["dq", "dkvs", "dvv", "dk"])).toBe("dkvs");
    expect(nearest("dv0", ["dq", "dv1", "dv"])).toBe("dv1");
    expect(nearest("dv", ["dq", "dv"])).toBe("dv");
  });

  test("nothing known: nothing suggested", () => {
    expect(nearest("causal", [])).toBeUndefined();
  });

  test("any one edit of a name of four letters or more leads back to it", () => {
    const edit = fc.tuple(fc.constantFrom(...known), fc.nat(), fc.constantFrom("insert", "remove", "replace"));
    fc.assert(
      fc.property(edit, ([name, seed, kind]) => {
        const at = seed % name.length;
        const tail = name.slice(kind === "insert" ? at : at + 1);
        expect(nearest(name.slice(0, at) + (kind === "remove" ? "" : "#") + tail, known)).toBe(name);
      }),
    );
  });
});

describe("show", () => {
  const detachedView = new DataView(new ArrayBuffer(4));
  structuredClone(null, { transfer: [detachedView.buffer] });
  const revocable = Proxy.revocable({}, {});
  revocable.revoke();
  const itself: unknown[] = [];
  for (let n = 0; n < 9; n++) itself.push(itself);

  test.each<[unknown, string]>([
    [undefined, "undefined"],
    [null, "null"],
    [1.5, "1.5"],
    [NaN, "NaN"],
    [7n, "7n"],
    ["a\nb", `"a\\nb"`],
    [Symbol("s"), "Symbol(s)"],
    [() => 0, "a function"],
    [[1, [2, "3"]], `[1, [2, "3"]]`],
    [Array.from({ length: 9 }, (_, n) => n), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"],
    [Array(2), "[undefined, undefined]"],
    [{ a: 1, b: 2 }, "{ a, b }"],
    [{ a: 1, b: 2, c: 3, d: 4, e: 5 }, "{ a, b, c, d, ... }"],
    [new Float32Array(3), "Float32Array(3)"],
    [new DataView(new ArrayBuffer(4)), "DataView(4)"],
    [new ArrayBuffer(4), "an ArrayBuffer"],
    [new Map(), "a Map"],
  ])("%o is shown as %s", (value, text) => {
    expect(show(value)).toBe(text);
  });

  test("what cannot be read is said to be so", () => {
    expect(show(detachedView)).toBe("an object that cannot be read");
    expect(show(revocable.proxy)).toBe("an object that cannot be read");
  });

  test("an array that holds itself has an end", () => {
    expect(show(itself)).toMatch(/^\[\[\[\.\.\.\], /);
  });

  test("anything is shown in one line of at most 60 characters, and nothing makes it throw", () => {
    fc.assert(
      fc.property(fc.anything({ withBigInt: true, withTypedArray: true, withSparseArray: true }), (value) => {
        const text = show(value);
        expect(text.length).toBeLessThanOrEqual(60);
        expect(text.startsWith(`"`) || !text.includes("\n")).toBe(true);
      }),
    );
  });
});

describe("refuse", () => {
  test("throws an FaError with the code, and the message of the contract's example", () => {
    const complaint = {
      where: "attention(k)",
      rule: "Hkv must divide H",
      got: "Hkv=3, H=8",
      fix: "Repeat K/V heads or pass q with H a multiple of Hkv.",
    };
    expect(() => refuse("FA_SHAPE", complaint)).toThrow(
      new FaError(
        "FA_SHAPE",
        "attention(k): Hkv must divide H; got Hkv=3, H=8. Repeat K/V heads or pass q with H a multiple of Hkv.",
      ),
    );
    expect(() => refuse("FA_SHAPE", complaint)).toThrow(expect.objectContaining({ code: "FA_SHAPE", name: "FaError" }));
  });

  test("an FaError is an Error, keeps its cause, and says its name in a stack", () => {
    const cause = new Error("below");
    const error = new FaError("FA_BACKEND", "above", { cause });
    expect(error).toBeInstanceOf(Error);
    expect(error.cause).toBe(cause);
    expect(String(error)).toBe("FaError: above");
  });
});
