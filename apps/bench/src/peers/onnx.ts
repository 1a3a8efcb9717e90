/**
 * An ONNX model of one operator, written by hand: protobuf is a list of (field number, wire type, value), and a model of
 * one node needs a dozen of its fields.
 * @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers
 */

export interface OneOperator {
  readonly operator: string;
  /** "" for ONNX's own operators, "com.microsoft" for onnxruntime's. */
  readonly domain: string;
  /** Version of the operator set of the domain. */
  readonly opset: number;
  readonly attributes: Readonly<Record<string, number>>;
  /** Shapes of float32 tensors by name, in the operator's order. */
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  readonly outputs: Readonly<Record<string, readonly number[]>>;
}

/** The bytes of the model. */
export function onnxModel({ operator, domain, opset, attributes, inputs, outputs }: OneOperator): Uint8Array {
  const node = [
    ...Object.keys(inputs).map((name) => text(1, name)),
    ...Object.keys(outputs).map((name) => text(2, name)),
    text(4, operator),
    ...Object.entries(attributes).map(([name, value]) => message(5, attribute(name, value))),
    text(7, domain),
  ];
  const graph = [
    message(1, node),
    text(2, operator),
    ...Object.entries(inputs).map((tensor) => message(11, float32Tensor(...tensor))),
    ...Object.entries(outputs).map((tensor) => message(12, float32Tensor(...tensor))),
  ];
  const imported = (name: string, version: number): number[] => message(8, [text(1, name), whole(2, version)]);
  const model = [
    whole(1, 10), // ir_version: that of ONNX 1.16, which every runtime with opset 23 reads
    message(7, graph),
    imported(domain, opset),
    // A model without ONNX's own operator set is refused, whatever its nodes.
    ...(domain === "" ? [] : [imported("", 21)]),
  ];
  return Uint8Array.from(model.flat());
}

const INT_ATTRIBUTE = 2;
const FLOAT32 = 1;

function attribute(name: string, value: number): number[][] {
  return [text(1, name), whole(3, value), whole(20, INT_ATTRIBUTE)];
}

function float32Tensor(name: string, shape: readonly number[]): number[][] {
  const dimensions = shape.map((size) => message(1, [whole(1, size)]));
  return [text(1, name), message(2, [message(1, [whole(1, FLOAT32), message(2, dimensions)])])];
}

// ---- the wire format: a field is a key (number, wire type) and its value

const VARINT = 0;
const LENGTH_DELIMITED = 2;

function whole(field: number, value: number): number[] {
  return [...varint(field * 8 + VARINT), ...varint(value)];
}

function text(field: number, value: string): number[] {
  return delimited(field, [...new TextEncoder().encode(value)]);
}

function message(field: number, fields: readonly (readonly number[])[]): number[] {
  return delimited(field, fields.flat());
}

function delimited(field: number, bytes: readonly number[]): number[] {
  return [...varint(field * 8 + LENGTH_DELIMITED), ...varint(bytes.length), ...bytes];
}

/** Seven bits a byte, the least significant first, the top bit set on all but the last. */
function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}
