import { pathToFileURL } from "node:url";

/** A folder of cases beside the checkout (`../shared/oracle`), which a stranger's clone does not have. */
export function oracleFolder(name: "torch" | "onnx"): URL | undefined {
  const root = process.env.FA_ORACLE;
  return root ? pathToFileURL(`${root}/${name}/`) : undefined;
}
