// The towers' ends on the CPU: patches, tokens, embeddings, picked rows.
#include <algorithm>
#include <numeric>

#include "tests/kernel_checks.h"

namespace clip {
namespace {

const std::vector<Accumulate> kBoth = {Accumulate::kNo, Accumulate::kYes};

TEST(ExtractPatchesKernel, NormalisesPixelsAndOrdersThemByChannelRowColumn) {
  constexpr float kMean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  constexpr float kStd[3] = {0.26862954f, 0.26130258f, 0.27577711f};
  const int64_t n = 3, size = 12, k = 4, grid = size / k;
  std::vector<uint8_t> pixels(static_cast<size_t>(n * size * size * 3));
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 37 + i / 256);
  const Tensor images = Tensor::from(cpu_backend(), {n, size, size, 3}, pixels);
  Doubles expected;
  for (int64_t image = 0; image < n; ++image)
    for (int64_t patch = 0; patch < grid * grid; ++patch)
      for (int64_t channel = 0; channel < 3; ++channel)
        for (int64_t y = 0; y < k; ++y)
          for (int64_t x = 0; x < k; ++x) {
            const int64_t row = patch / grid * k + y, column = patch % grid * k + x;
            const auto pixel = static_cast<double>(
                pixels[static_cast<size_t>(((image * size + row) * size + column) * 3 + channel)]);
            expected.push_back((pixel / 255 - static_cast<double>(kMean[channel])) /
                               static_cast<double>(kStd[channel]));
          }
  Output f32 = output<float>({n * grid * grid, 3 * k * k}),
         f64 = output<double>({n * grid * grid, 3 * k * k});
  cpu_backend().extract_patches(f32.tensor, images, k, kMean, kStd);
  cpu_backend().extract_patches(f64.tensor, images, k, kMean, kStd);
  f32.expect(expected, roundings<float>(2), "F32 patches");
  f64.expect(expected, roundings<double>(2), "F64 patches");
}

struct AssembleCase {
  int64_t n = 5, patches = 9, width = 33;
  Doubles x = random_values(n * patches * width, 1), class_token = random_values(width, 2),
          positions = random_values((patches + 1) * width, 3),
          dy = random_values(n * (patches + 1) * width, 4);
};

TEST(AssembleTokensKernel, PutsTheClassTokenFirstAndAddsPositions) {
  const AssembleCase in;
  Doubles expected;
  for (int64_t image = 0; image < in.n; ++image)
    for (int64_t place = 0; place <= in.patches; ++place)
      for (int64_t c = 0; c < in.width; ++c) {
        const int64_t from = (image * in.patches + place - 1) * in.width + c;
        expected.push_back((place == 0 ? in.class_token[static_cast<size_t>(c)]
                                       : in.x[static_cast<size_t>(from)]) +
                           in.positions[static_cast<size_t>(place * in.width + c)]);
      }
  Output y = output<float>({in.n * (in.patches + 1), in.width});
  cpu_backend().assemble_tokens_forward(y.tensor,
                                        tensor_of<float>({in.n * in.patches, in.width}, in.x),
                                        tensor_of<float>({in.width}, in.class_token),
                                        tensor_of<float>({in.patches + 1, in.width}, in.positions));
  y.expect(expected, roundings<float>(1), "y");
}

TEST(AssembleTokensKernel, BackwardSplitsTheGradientWritingAndAdding) {
  const AssembleCase in;
  Doubles dx, dclass(static_cast<size_t>(in.width)),
      dpositions(static_cast<size_t>((in.patches + 1) * in.width));
  for (int64_t row = 0; row < in.n * (in.patches + 1); ++row)
    for (int64_t c = 0; c < in.width; ++c) {
      const int64_t place = row % (in.patches + 1);
      const double gradient = in.dy[static_cast<size_t>(row * in.width + c)];
      dpositions[static_cast<size_t>(place * in.width + c)] += gradient;
      if (place == 0) dclass[static_cast<size_t>(c)] += gradient;
      if (place != 0) dx.push_back(gradient);
    }
  const Tensor dy = tensor_of<float>({in.n * (in.patches + 1), in.width}, in.dy);
  for (const Accumulate to : kBoth) {
    Output dx_out = output<float>({in.n * in.patches, in.width}, to),
           dclass_out = output<float>({in.width}, to),
           dpositions_out = output<float>({in.patches + 1, in.width}, to);
    cpu_backend().assemble_tokens_backward(dx_out.tensor, dclass_out.tensor, dpositions_out.tensor,
                                           dy, to, to, to);
    dx_out.expect(dx, roundings<float>(1), "dx");
    dclass_out.expect(dclass, roundings<float>(8), "dclass_token");  // a sum of five
    dpositions_out.expect(dpositions, roundings<float>(8), "dpositions");

    Output dx_alone = output<float>({in.n * in.patches, in.width}, to),
           dpositions_alone = output<float>({in.patches + 1, in.width}, to);
    Tensor none;
    cpu_backend().assemble_tokens_backward(dx_alone.tensor, none, none, dy, to, to, to);
    cpu_backend().assemble_tokens_backward(none, none, dpositions_alone.tensor, dy, to, to, to);
    dx_alone.expect(dx, roundings<float>(1), "dx alone");
    dpositions_alone.expect(dpositions, roundings<float>(8), "dpositions alone");
  }
  Tensor none, dclass_alone = output<float>({in.width}).tensor;
  EXPECT_THROW(cpu_backend().assemble_tokens_backward(none, dclass_alone, none, dy, kBoth[0],
                                                      kBoth[0], kBoth[0]),
               Error);
}

/// Packed captions of random lengths, with frequent ids, rare ids and ids that are never used.
struct Captions {
  int64_t vocabulary = 100, context = 20, width = 33;
  std::vector<int32_t> tokens, offsets = {0}, order;

  explicit Captions(int64_t count) {
    std::mt19937 generator(5);
    for (int64_t caption = 0; caption < count; ++caption) {
      const auto length = static_cast<int32_t>(1 + generator() % 17);
      for (int32_t i = 0; i < length; ++i) {
        tokens.push_back(i == 0 ? 90 : static_cast<int32_t>(3 + generator() % 80));
      }
      offsets.push_back(offsets.back() + length);
    }
    order.resize(tokens.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return tokens[static_cast<size_t>(a)] < tokens[static_cast<size_t>(b)];
    });
  }
  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  /// Calls body(element of y, element of the table, element of positions).
  template <class Body>
  void for_elements(const Body& body) const {
    for (size_t caption = 0; caption + 1 < offsets.size(); ++caption)
      for (int64_t row = offsets[caption]; row < offsets[caption + 1]; ++row)
        for (int64_t c = 0; c < width; ++c) {
          const int64_t id = tokens[static_cast<size_t>(row)], place = row - offsets[caption];
          body(static_cast<size_t>(row * width + c), static_cast<size_t>(id * width + c),
               static_cast<size_t>(place * width + c));
        }
  }
};

TEST(TokenEmbeddingKernel, ForwardAddsTableRowsAndPositions) {
  const Captions in(40);
  const Doubles table = random_values(in.vocabulary * in.width, 1),
                positions = random_values(in.context * in.width, 2);
  Doubles expected(static_cast<size_t>(in.rows() * in.width));
  in.for_elements(
      [&](size_t y, size_t entry, size_t place) { expected[y] = table[entry] + positions[place]; });
  Output y = output<float>({in.rows(), in.width});
  cpu_backend().token_embedding_forward(
      y.tensor, tensor_of<float>({in.vocabulary, in.width}, table),
      tensor_of<float>({in.context, in.width}, positions), ints(in.tokens), ints(in.offsets));
  y.expect(expected, roundings<float>(1), "y");
}

TEST(TokenEmbeddingKernel, BackwardSumsPerIdAndPlaceAndClearsUnusedRows) {
  for (const int64_t count : {1, 40}) {
    const Captions in(count);
    const Doubles dy = random_values(in.rows() * in.width, 3);
    Doubles dtable(static_cast<size_t>(in.vocabulary * in.width)),
        dpositions(static_cast<size_t>(in.context * in.width));
    in.for_elements([&](size_t y, size_t entry, size_t place) {
      dtable[entry] += dy[y];
      dpositions[place] += dy[y];
    });
    for (const Accumulate to : kBoth) {
      Output dtable_out = output<float>({in.vocabulary, in.width}, to),
             dpositions_out = output<float>({in.context, in.width}, to),
             dtable_alone = output<float>({in.vocabulary, in.width}, to);
      const Tensor dy_in = tensor_of<float>({in.rows(), in.width}, dy);
      Tensor none;
      cpu_backend().token_embedding_backward(dtable_out.tensor, dpositions_out.tensor, dy_in,
                                             ints(in.tokens), ints(in.offsets), ints(in.order), to,
                                             to);
      cpu_backend().token_embedding_backward(dtable_alone.tensor, none, dy_in, ints(in.tokens),
                                             ints(in.offsets), ints(in.order), to, to);
      // At most 40 terms of up to 2.
      dtable_out.expect(dtable, roundings<float>(80), "dtable");
      dtable_alone.expect(dtable, roundings<float>(80), "dtable alone");
      dpositions_out.expect(dpositions, roundings<float>(80), "dpositions");
    }
  }
}

TEST(TokenEmbeddingKernel, GivesTheSameBitsForAnyThreadCount) {
  const Captions in(300);
  const Doubles dy = random_values(in.rows() * in.width, 3);
  expect_same_bits_for_any_thread_count([&] {
    Tensor dtable = output<float>({in.vocabulary, in.width}).tensor,
           dpositions = output<float>({in.context, in.width}).tensor;
    cpu_backend().token_embedding_backward(
        dtable, dpositions, tensor_of<float>({in.rows(), in.width}, dy), ints(in.tokens),
        ints(in.offsets), ints(in.order), Accumulate::kNo, Accumulate::kNo);
    return std::vector<Tensor>{dtable, dpositions};
  });
}

TEST(GatherRowsKernel, PicksRowsAndScattersTheirGradients) {
  const int64_t rows = 31, width = 7;
  const std::vector<int32_t> picked = {30, 0, 17, 4};
  const Doubles x = random_values(rows * width, 1), dy = random_values(4 * width, 2);
  Doubles y(dy.size()), dx(x.size());
  for (size_t i = 0; i < dy.size(); ++i) {
    const auto source = static_cast<size_t>(picked[i / 7]) * 7 + i % 7;
    y[i] = x[source];
    dx[source] = dy[i];
  }
  Output y_out = output<float>({4, width});
  cpu_backend().gather_rows_forward(y_out.tensor, tensor_of<float>({rows, width}, x), ints(picked));
  y_out.expect(y, 0, "y");
  for (const Accumulate to : kBoth) {
    Output dx_out = output<float>({rows, width}, to);
    cpu_backend().gather_rows_backward(dx_out.tensor, tensor_of<float>({4, width}, dy),
                                       ints(picked), to);
    dx_out.expect(dx, roundings<float>(1), "dx");
  }
}

}  // namespace
}  // namespace clip
