#include "tests/op_cases.h"

#include <algorithm>

#include "engine/random.h"

namespace clip {
namespace {

using Inputs = std::vector<Variable>;
using Outputs = std::vector<Variable>;
using Shapes = OpCase::Shapes;

Tensor int_tensor(const Variable& like, const std::vector<int32_t>& values) {
  return Tensor::from<int32_t>(like.backend(), {static_cast<int64_t>(values.size())}, values);
}

/// Cuts `rows` into sequences of the given lengths, over and over; the last one takes what is left.
std::vector<int32_t> cut(int64_t rows, const std::vector<int64_t>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (size_t i = 0; offsets.back() < rows; ++i)
    offsets.push_back(
        static_cast<int32_t>(std::min(rows, offsets.back() + lengths[i % lengths.size()])));
  return offsets;
}

Sequences self_sequences(const Variable& x, int64_t rows, const std::vector<int64_t>& lengths) {
  const Tensor offsets = int_tensor(x, cut(rows, lengths));
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  return {offsets, offsets, longest, longest};
}

/// One query row for each of as many sequences as there are query rows.
Sequences one_query_each(const Variable& q, const Variable& kv) {
  const int64_t count = q.size(0), rows = kv.size(0);
  std::vector<int32_t> queries, keys;
  for (int64_t i = 0; i <= count; ++i) {
    queries.push_back(static_cast<int32_t>(i));
    keys.push_back(static_cast<int32_t>(rows * i * i / (count * count)));  // uneven lengths
  }
  return {int_tensor(q, queries), int_tensor(q, keys), 1, rows};
}

/// Pixels that cost nothing to make, since the benchmark makes them every time.
Tensor scattered_pixels(const Variable& weight, int64_t count, int64_t size) {
  std::vector<uint8_t> pixels(static_cast<size_t>(count * size * size * 3));
  for (size_t i = 0; i < pixels.size(); ++i)
    pixels[i] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 2654435761u >> 24);
  return Tensor::from<uint8_t>(weight.backend(), {count, size, size, 3}, pixels);
}

/// As many captions as there are positions, of 1 ... L tokens; some ids often, some never.
PackedTokens random_captions(const Variable& table, const Variable& positions) {
  Random random(7, random_stream("captions"));
  std::vector<std::vector<int32_t>> captions;
  for (int64_t length = 1; length <= positions.size(0); ++length) {
    captions.emplace_back();
    for (int64_t i = 0; i < length; ++i)
      captions.back().push_back(
          static_cast<int32_t>(random.below(1 + random.below(table.size(0)))));
  }
  return pack_tokens(captions, table.backend());
}

/// Some rows out of order.
Tensor every_third_row(const Variable& x) {
  std::vector<int32_t> rows;
  for (int64_t row = (x.size(0) - 1) / 3 * 3; row >= 0; row -= 3)
    rows.push_back(static_cast<int32_t>(row));
  return int_tensor(x, rows);
}

Variable loss_of_unit_vectors(const Inputs& in, int64_t tile_columns) {
  const auto comm = make_single_communicator();
  return clip_loss(l2_normalize(in[0]), l2_normalize(in[1]), in[2], *comm, tile_columns);
}

Variable sigmoid_loss_of_unit_vectors(const Inputs& in, int64_t tile_columns) {
  const auto comm = make_single_communicator();
  return siglip_loss(l2_normalize(in[0]), l2_normalize(in[1]), in[2], in[3], *comm, tile_columns);
}

/// One query row for each sequence of `keys` rows.
Sequences one_query_of(const Variable& q, int64_t keys) {
  std::vector<int32_t> queries, offsets;
  for (int64_t i = 0; i <= q.size(0); ++i) {
    queries.push_back(static_cast<int32_t>(i));
    offsets.push_back(static_cast<int32_t>(i * keys));
  }
  return {int_tensor(q, queries), int_tensor(q, offsets), 1, keys};
}

/// Running statistics off 0 and 1.
RunningStatistics running_statistics(const Variable& x) {
  const DType dtype = sum_dtype(x.dtype());
  RunningStatistics running{random_tensor({x.width()}, dtype, x.backend(), 8, 1),
                            Tensor::empty(x.backend(), {x.width()}, dtype),
                            Tensor::zeros(x.backend(), {}, dtype)};
  const std::vector<float> variances(static_cast<size_t>(x.width()), 1.5f);
  running.variance.backend().convert(running.variance,
                                     Tensor::from<float>(x.backend(), {x.width()}, variances));
  return running;
}

BatchNormMode of_batch() {
  static const auto comm = make_single_communicator();
  return {comm.get(), BatchNormMode::Running::kMoved};
}

/// x, residual (absent where null), weight, bias
Variable batch_norm(const Variable& x, const Variable* residual, const Variable& weight,
                    const Variable& bias, const BatchNormMode& mode, Relu relu) {
  return batch_norm_relu(x, residual == nullptr ? Variable() : *residual, weight, bias,
                         running_statistics(x), mode, relu);
}

/// Multiply-adds of a convolution of stride 1, times two: forward, and twice backward.
double convolution_flop(const Shapes& shapes) {
  return 6.0 * static_cast<double>(shapes[0].numel()) / static_cast<double>(shapes[0][3]) *
         static_cast<double>(shapes[1].numel());
}

Outputs both(const ResidualNorm& result) { return {result.sum, result.normed}; }

double product_flop(const Shapes& shapes) {  // x [R, K], weight [M, K] or [K, M]
  return 6.0 * static_cast<double>(shapes[0].numel()) * static_cast<double>(shapes[1].numel()) /
         static_cast<double>(shapes[0][1]);
}

/// Two products forward and five backward, of `queries` rows of width C with `keys` rows each.
double attention_flop(int64_t queries, double keys, int64_t width) {
  return 2.0 * 7.0 * static_cast<double>(queries) * keys * static_cast<double>(width);
}

OpCase with_activations(int64_t count, OpCase op) {
  op.activations = count;
  return op;
}

std::vector<OpCase> make_op_cases() {
  const std::vector<int64_t> ragged = {5, 1, 17, 8}, images = {65};
  // clang-format off
  return {
      {"linear", {{33, 7}, {31, 7}, {31}}, {{16640, 192}, {768, 192}, {768}},
       [](auto& in) { return Outputs{linear(in[0], in[1], in[2])}; }, product_flop},
      {"linear_one_row_no_bias", {{1, 31}, {33, 31}}, {},
       [](auto& in) { return Outputs{linear(in[0], in[1])}; }},
      {"project", {{31, 33}, {33, 7}}, {{256, 192}, {192, 256}},
       [](auto& in) { return Outputs{project(in[0], in[1])}; }, product_flop},
      {"project_with_bias", {{31, 33}, {7, 33}, {7}}, {},
       [](auto& in) { return Outputs{project(in[0], in[1], in[2])}; }},
      {"slice_rows_in_two", {{33, 7}}, {},
       [](auto& in) { return Outputs{slice_rows(in[0], 0, 12), slice_rows(in[0], 12, 33)}; }},
      with_activations(0, {"slice_rows_of_bias", {{33}}, {},
       [](auto& in) { return Outputs{slice_rows(in[0], 1, 31)}; }}),
      {"layer_norm", {{33, 31}, {31}, {31}}, {{16640, 192}, {192}, {192}},
       [](auto& in) { return Outputs{layer_norm(in[0], in[1], in[2])}; }},
      {"layer_norm_two_segments", {{300, 5}, {5}, {5}}, {},
       [](auto& in) { return Outputs{layer_norm(in[0], in[1], in[2])}; }},
      with_activations(2, {"bias_residual_layer_norm", {{33, 31}, {33, 31}, {31}, {31}, {31}}, {{16640, 192}, {16640, 192}, {192}, {192}, {192}},
       [](auto& in) { return both(bias_residual_layer_norm(in[0], in[1], in[2], in[3], in[4])); }}),
      with_activations(2, {"bias_residual_layer_norm_norm_alone", {{1, 33}, {1, 33}, {33}, {33}, {33}}, {},
       [](auto& in) { return Outputs{bias_residual_layer_norm(in[0], in[1], in[2], in[3], in[4]).normed}; }}),
      with_activations(2, {"bias_residual_layer_norm_sum_alone", {{5, 31}, {5, 31}, {31}, {31}, {31}}, {},
       [](auto& in) { return Outputs{bias_residual_layer_norm(in[0], in[1], in[2], in[3], in[4]).sum}; }}),
      {"bias_residual_layer_norm_of_itself", {{7, 31}, {31}, {31}, {31}}, {},
       [](auto& in) { return both(bias_residual_layer_norm(in[0], in[0], in[1], in[2], in[3])); }},
      with_activations(2, {"bias_residual_layer_norm_no_bias", {{5, 31}, {5, 31}, {31}, {31}}, {},
       [](auto& in) { return both(bias_residual_layer_norm(in[0], in[1], {}, in[2], in[3])); }}),
      {"bias_gelu_quick", {{33, 7}, {7}}, {{16640, 768}, {768}},
       [](auto& in) { return Outputs{bias_gelu(in[0], in[1], Gelu::kQuick)}; }},
      {"bias_gelu_erf", {{33, 7}, {7}}, {{16640, 768}, {768}},
       [](auto& in) { return Outputs{bias_gelu(in[0], in[1], Gelu::kErf)}; }},
      {"attention", {{31, 3 * 6}}, {{256 * 65, 3 * 192}},
       [=](auto& in) {
         const bool large = in[0].size(0) > 1000;
         return Outputs{attention(in[0], self_sequences(in[0], in[0].size(0), large ? images : ragged),
                                  {.heads = large ? 3 : 2})};
       }, [](const Shapes& s) { return attention_flop(s[0][0], 65, s[0][1] / 3); }},
      {"attention_causal", {{33, 3 * 16}}, {{256 * 12, 3 * 192}},
       [=](auto& in) {
         const bool large = in[0].size(0) > 1000;
         return Outputs{attention(in[0], self_sequences(in[0], in[0].size(0), large ? std::vector<int64_t>{12} : ragged),
                                  {.heads = large ? 3 : 2, .causal = Causal::kYes})};
       }, [](const Shapes& s) { return attention_flop(s[0][0], 6.5, s[0][1] / 3); }},  // 1 ... 12 keys
      with_activations(2, {"attention_one_query_row", {{3, 10}, {33, 20}}, {{256, 192}, {256 * 65, 2 * 192}},
       [](auto& in) { return Outputs{attention(in[0], in[1], one_query_each(in[0], in[1]), {.heads = 2})}; }}),
      with_activations(0, {"patch_embedding", {{7, 3, 3, 3}}, {{192, 3, 8, 8}},
       [](auto& in) {
         const bool large = in[0].size(2) == 8;
         return Outputs{patch_embedding(scattered_pixels(in[0], large ? 256 : 3, large ? 64 : 6), in[0])};
       }, [](const Shapes& s) { return 4.0 * 256 * 64 * static_cast<double>(s[0].numel()); }}),  // forward, dW
      {"assemble_tokens", {{12, 7}, {7}, {5, 7}}, {{16384, 192}, {192}, {65, 192}},
       [](auto& in) { return Outputs{assemble_tokens(in[0], in[1], in[2])}; }},
      with_activations(0, {"token_embedding", {{31, 7}, {9, 7}}, {{8192, 192}, {77, 192}},
       [](auto& in) { return Outputs{token_embedding(in[0], in[1], random_captions(in[0], in[1]))}; }}),
      {"gather_rows", {{33, 7}}, {{16640, 192}},
       [](auto& in) { return Outputs{gather_rows(in[0], every_third_row(in[0]))}; }},
      with_activations(3, {"attention_one_query_row_of_three_matrices", {{3, 10}, {33, 10}, {33, 10}}, {},
       [](auto& in) { return Outputs{attention(in[0], in[1], in[2], one_query_of(in[0], 11), {.heads = 2})}; }}),
      {"scale_columns", {{33, 7}, {7}}, {{16640, 192}, {192}},
       [](auto& in) { return Outputs{scale_columns(in[0], in[1])}; }},
      {"conv2d", {{2, 5, 7, 3}, {5, 3, 3, 3}}, {{8, 56, 56, 64}, {64, 64, 3, 3}},
       [](auto& in) { return Outputs{conv2d(in[0], in[1])}; }, convolution_flop},
      {"conv2d_stride_2", {{3, 6, 5, 4}, {7, 4, 3, 3}}, {},
       [](auto& in) { return Outputs{conv2d(in[0], in[1], 2)}; }},
      {"conv2d_of_one_pixel", {{3, 1, 1, 5}, {2, 5, 3, 3}}, {},
       [](auto& in) { return Outputs{conv2d(in[0], in[1])}; }},
      {"conv2d_1x1", {{2, 5, 3, 7}, {9, 7, 1, 1}}, {{8, 56, 56, 64}, {256, 64, 1, 1}},
       [](auto& in) { return Outputs{conv2d(in[0], in[1])}; }, convolution_flop},
      {"batch_norm_relu", {{3, 11, 1, 7}, {7}, {7}}, {{8, 56, 56, 64}, {64}, {64}},
       [](auto& in) { return Outputs{batch_norm(in[0], nullptr, in[1], in[2], of_batch(), Relu::kYes)}; }},
      with_activations(2, {"batch_norm_relu_residual_two_segments", {{300, 5}, {300, 5}, {5}, {5}}, {{8, 56, 56, 256}, {8, 56, 56, 256}, {256}, {256}},
       [](auto& in) { return Outputs{batch_norm(in[0], &in[1], in[2], in[3], of_batch(), Relu::kYes)}; }}),
      {"batch_norm_relu_left_out", {{31, 33}, {33}, {33}}, {},
       [](auto& in) { return Outputs{batch_norm(in[0], nullptr, in[1], in[2], of_batch(), Relu::kNo)}; }},
      with_activations(2, {"batch_norm_relu_of_running_statistics", {{33, 7}, {33, 7}, {7}, {7}}, {},
       [](auto& in) { return Outputs{batch_norm(in[0], &in[1], in[2], in[3], {}, Relu::kYes)}; }}),
      {"batch_norm_relu_of_itself", {{33, 7}, {7}, {7}}, {},
       [](auto& in) { return Outputs{batch_norm(in[0], &in[0], in[1], in[2], of_batch(), Relu::kYes)}; }},
      {"avg_pool", {{2, 4, 6, 7}}, {{8, 112, 112, 64}},
       [](auto& in) { return Outputs{avg_pool(in[0], 2)}; }},
      {"mean_rows", {{33, 5}}, {},
       [](auto& in) { return Outputs{mean_rows(in[0], 11)}; }},
      {"mean_token", {{3, 2, 3, 7}, {7, 7}}, {{64, 7, 7, 2048}, {50, 2048}},
       [](auto& in) { return Outputs{mean_token(in[0], in[1])}; }},
      with_activations(OpCase::kFeatures, {"l2_normalize", {{31, 33}}, {{1024, 512}},
       [](auto& in) { return Outputs{l2_normalize(in[0])}; }}),
      with_activations(OpCase::kFeatures, {"clip_loss", {{31, 7}, {31, 7}, {}}, {{1024, 512}, {1024, 512}, {}},
       [](auto& in) { return Outputs{loss_of_unit_vectors(in, 4096)}; },
       [](const Shapes& s) { return 12.0 * static_cast<double>(s[0][0] * s[0].numel()); }}),
      with_activations(OpCase::kFeatures, {"clip_loss_in_tiles", {{33, 7}, {33, 7}, {}}, {},
       [](auto& in) { return Outputs{loss_of_unit_vectors(in, 10)}; }}),
      with_activations(OpCase::kFeatures, {"clip_loss_of_one_pair", {{1, 7}, {1, 7}, {}}, {},
       [](auto& in) { return Outputs{loss_of_unit_vectors(in, 4096)}; }}),
      with_activations(OpCase::kFeatures, {"siglip_loss", {{31, 7}, {31, 7}, {}, {}}, {{1024, 512}, {1024, 512}, {}, {}},
       [](auto& in) { return Outputs{sigmoid_loss_of_unit_vectors(in, 4096)}; },
       [](const Shapes& s) { return 10.0 * static_cast<double>(s[0][0] * s[0].numel()); }}),
      with_activations(OpCase::kFeatures, {"siglip_loss_in_tiles", {{33, 7}, {33, 7}, {}, {}}, {},
       [](auto& in) { return Outputs{sigmoid_loss_of_unit_vectors(in, 10)}; }}),
      with_activations(OpCase::kFeatures, {"siglip_loss_of_one_pair", {{1, 7}, {1, 7}, {}, {}}, {},
       [](auto& in) { return Outputs{sigmoid_loss_of_unit_vectors(in, 4096)}; }}),
      {"recompute", {{31, 7}, {7}, {33, 7}}, {},
       [](auto& in) {
         return recompute([](const Inputs& x) { return Outputs{linear(bias_gelu(x[0], x[1], Gelu::kQuick), x[2])}; }, in);
       }},
      with_activations(2, {"recompute_of_two_outputs", {{31, 7}, {31, 7}, {7}, {7}, {7}}, {},
       [](auto& in) {
         return recompute([](const Inputs& x) { return both(bias_residual_layer_norm(x[0], x[1], x[2], x[3], x[4])); }, in);
       }}),
      {"fan_out", {{5, 7}, {7, 7}}, {},
       [](auto& in) {
         const Variable y = linear(in[0], in[1]);
         return Outputs{linear(y, in[1]), gather_rows(y, every_third_row(y)), linear(in[0], in[1])};
       }},
  };
  // clang-format on
}

}  // namespace

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = make_op_cases();
  return cases;
}

Tensor random_tensor(const Shape& shape, DType dtype, Backend& backend, uint64_t seed,
                     uint64_t stream) {
  Random random(seed, stream);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& value : values) value = random.normal();
  return Tensor::from<double>(backend, shape, values).as_dtype(dtype);
}

std::vector<Variable> random_inputs(const OpCase& op, const Shapes& shapes, DType dtype,
                                    Backend& backend, uint64_t seed) {
  const bool features = op.activations == OpCase::kFeatures;
  std::vector<Variable> inputs;
  for (const Shape& shape : shapes) {
    const auto index = static_cast<int64_t>(inputs.size());
    const DType held = features ? sum_dtype(dtype) : dtype;
    inputs.emplace_back(random_tensor(shape, held, backend, seed, inputs.size()), true);
    if (index >= op.activations) inputs.back().set_gradient_dtype(sum_dtype(dtype));
  }
  return inputs;
}

std::vector<Variable> in_f64(const std::vector<Variable>& inputs) {
  std::vector<Variable> wide;
  for (const Variable& input : inputs) wide.emplace_back(input.value().as_dtype(DType::kF64), true);
  return wide;
}

std::vector<Tensor> outputs_and_gradients(const OpCase& op, const std::vector<Variable>& inputs) {
  Tape tape;
  const auto outputs = op.run(inputs);
  std::vector<Tensor> cotangents, results;
  for (const Variable& output : outputs) {
    const Tensor exact =
        random_tensor(output.shape(), DType::kBF16, output.backend(), 5, cotangents.size());
    cotangents.push_back(exact.as_dtype(output.gradient_dtype()));
    results.push_back(output.value());
  }
  tape.backward(outputs, cotangents);
  for (const Variable& input : inputs)
    if (input.has_grad()) results.push_back(input.grad());
  return results;
}

}  // namespace clip
