import { decode } from "@fa/core";
import { readSafetensors, type StoredTensor } from "@fa/core/safetensors";
import type { Numbers } from "./subject.ts";

/** A case file and its data: `NAME.json` describes cases whose tensors lie in `NAME.safetensors` as `case/tensor`. */
export interface CaseFile<C> {
  readonly cases: readonly C[];
  /** A tensor of a case. */
  tensor(key: string): Numbers;
  /** A field of the json beside the cases. */
  field(key: string): unknown;
}

/** Reads a case file from a folder, given as a URL that ends in a slash: by `fs` for file URLs, else by `fetch`. */
export async function readCaseFile<C>(folder: URL, name: string): Promise<CaseFile<C>> {
  const [json, data] = await Promise.all(
    [`${name}.json`, `${name}.safetensors`].map((file) => readFile(new URL(file, folder))),
  );
  const described = JSON.parse(new TextDecoder().decode(json)) as { cases: C[] } & Record<string, unknown>;
  const tensors = readSafetensors(data);
  return {
    cases: described.cases,
    field: (key) => described[key],
    tensor(key) {
      const found = tensors.get(key);
      if (!found) throw new Error(`no tensor ${key} in ${folder.href}`);
      return numbers(found);
    },
  };
}

function numbers({ shape, dtype, bytes }: StoredTensor): Numbers {
  return { shape, values: decode(dtype, bytes), dtype };
}

/** The bytes behind a URL: by `fs` where it is a file, else by `fetch`. */
export async function readFile(url: URL): Promise<Uint8Array> {
  if (url.protocol === "file:") {
    const { readFile: read } = process.getBuiltinModule("node:fs/promises");
    return read(url);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.href}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** This module's address, in a variable so that bundlers do not take the folder below for one asset. */
const here = import.meta.url;
/** The golden vectors that come with this package. */
export const GOLDEN: URL = new URL("../golden/", here);
