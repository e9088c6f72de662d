#include <algorithm>
#include <numeric>

#include "autograd/ops.h"

namespace clip {

PackedTokens pack_tokens(const std::vector<std::vector<int32_t>>& captions, Backend& backend) {
  std::vector<int32_t> tokens, offsets = {0}, ends;
  PackedTokens packed;
  for (size_t i = 0; i < captions.size(); ++i) {
    CLIP_CHECK(!captions[i].empty(), "[pack_tokens] caption ", i, " has no tokens");
    tokens.insert(tokens.end(), captions[i].begin(), captions[i].end());
    offsets.push_back(static_cast<int32_t>(tokens.size()));
    ends.push_back(offsets.back() - 1);
    packed.max_length = std::max(packed.max_length, static_cast<int64_t>(captions[i].size()));
  }
  std::vector<int32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return tokens[static_cast<size_t>(a)] < tokens[static_cast<size_t>(b)];
  });
  const auto to_device = [&](const std::vector<int32_t>& values) {
    return Tensor::from<int32_t>(backend, {static_cast<int64_t>(values.size())}, values);
  };
  packed.tokens = to_device(tokens);
  packed.offsets = to_device(offsets);
  packed.order = to_device(order);
  packed.ends = to_device(ends);
  return packed;
}

Variable token_embedding(const Variable& table, const Variable& positions,
                         const PackedTokens& tokens) {
  CLIP_CHECK(table.rank() == 2 && positions.rank() == 2 && table.width() == positions.width(),
             "[token_embedding] table [V, C] and positions [L, C] must agree in C, got ",
             table.shape(), " and ", positions.shape());
  CLIP_CHECK(tokens.max_length <= positions.size(0), "[token_embedding] captions may have ",
             positions.size(0), " tokens, got one of ", tokens.max_length);
  Backend& backend = table.backend();
  Tensor y = Tensor::empty(backend, {tokens.tokens.size(0), table.width()}, table.dtype());
  backend.token_embedding_forward(y, table.value(), positions.value(), tokens.tokens,
                                  tokens.offsets);
  const int64_t gradient_bytes = table.shape().numel() * size_of(table.gradient_dtype());
  const Op op{"token_embedding", moves(2 * y.bytes(), y.bytes() + gradient_bytes)};
  return record(op, y, {table, positions}, [=, &backend](const Tensor& dy) {
    auto [dtable, to_dtable] = table.gradient_slot();
    auto [dpositions, to_dpositions] = positions.gradient_slot();
    backend.token_embedding_backward(dtable, dpositions, dy, tokens.tokens, tokens.offsets,
                                     tokens.order, to_dtable, to_dpositions);
  });
}

Variable gather_rows(const Variable& x, const Tensor& rows) {
  CLIP_CHECK(x.rank() == 2, "[gather_rows] x must be [R, C], got ", x.shape());
  CLIP_CHECK(rows.rank() == 1 && rows.dtype() == DType::kI32,
             "[gather_rows] rows must be i32 [M], got ", rows.dtype(), " ", rows.shape());
  Backend& backend = x.backend();
  Tensor y = Tensor::empty(backend, {rows.size(0), x.width()}, x.dtype());
  backend.gather_rows_forward(y, x.value(), rows);
  const Op op{"gather_rows", moves(2 * y.bytes(), 2 * y.bytes())};
  return record(op, y, {x}, [=, &backend, x = x.gradient_only()](const Tensor& dy) {
    auto [dx, to_dx] = x.gradient_slot();
    backend.gather_rows_backward(dx, dy, rows, to_dx);
  });
}

}  // namespace clip
