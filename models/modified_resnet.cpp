#include "models/modified_resnet.h"

namespace clip {
namespace {

Variable conv_weight(int64_t inputs, int64_t outputs, int64_t side) {
  return Variable::parameter({outputs, inputs, side, side});
}

/// Pixels of images U8 [N, S, S, 3], normalised: patches of one pixel.
Variable normalized_pixels(const Tensor& images, const PixelStatistics& statistics, DType dtype) {
  Tensor pixels = Tensor::empty(images.backend(), images.shape(), dtype);
  images.backend().extract_patches(pixels, images, 1, statistics.mean.data(),
                                   statistics.std.data());
  return Variable(pixels);
}

/// The three convolutions with their norms that the stem and every block have.
template <class Block>
void collect_convolutions(const Block& block, ParameterList& list, const std::string& prefix) {
  list.add(prefix + ".conv1.weight", block.conv1);
  block.bn1.collect(list, prefix + ".bn1");
  list.add(prefix + ".conv2.weight", block.conv2);
  block.bn2.collect(list, prefix + ".bn2");
  list.add(prefix + ".conv3.weight", block.conv3);
  block.bn3.collect(list, prefix + ".bn3");
}

}  // namespace

BatchNorm::BatchNorm(int64_t width)
    : weight(Variable::parameter({width})),
      bias(Variable::parameter({width})),
      running_mean(Variable::parameter({width})),
      running_var(Variable::parameter({width})),
      num_batches_tracked(Variable::parameter({})) {}

void BatchNorm::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".weight", weight);
  list.add(prefix + ".bias", bias);
  list.add_buffer(prefix + ".running_mean", running_mean);
  list.add_buffer(prefix + ".running_var", running_var);
  list.add_buffer(prefix + ".num_batches_tracked", num_batches_tracked);
}

Variable BatchNorm::operator()(const Variable& x, const BatchNormMode& mode, Relu relu,
                               const Variable& residual) const {
  return batch_norm_relu(x, residual, weight, bias,
                         {running_mean.value(), running_var.value(), num_batches_tracked.value()},
                         mode, relu);
}

Bottleneck::Bottleneck(int64_t inputs, int64_t channels, int64_t stride_)
    : stride(stride_),
      conv1(conv_weight(inputs, channels, 1)),
      conv2(conv_weight(channels, channels, 3)),
      conv3(conv_weight(channels, 4 * channels, 1)),
      bn1(channels),
      bn2(channels),
      bn3(4 * channels) {
  if (stride > 1 || inputs != 4 * channels)
    downsample = {conv_weight(inputs, 4 * channels, 1), BatchNorm(4 * channels)};
}

void Bottleneck::collect(ParameterList& list, const std::string& prefix) const {
  collect_convolutions(*this, list, prefix);
  if (!downsample) return;
  list.add(prefix + ".downsample.0.weight", downsample->conv);
  downsample->norm.collect(list, prefix + ".downsample.1");
}

Variable Bottleneck::operator()(const Variable& x, const BatchNormMode& mode) const {
  const auto shrunk = [this](const Variable& map) {
    return stride > 1 ? avg_pool(map, stride) : map;
  };
  const Variable reduced = bn1(conv2d(x, conv1), mode);
  const Variable seen = shrunk(bn2(conv2d(reduced, conv2), mode));
  const Variable identity =
      downsample ? downsample->norm(conv2d(shrunk(x), downsample->conv), mode, Relu::kNo) : x;
  return bn3(conv2d(seen, conv3), mode, Relu::kYes, identity);
}

AttentionPool::AttentionPool(int64_t places, int64_t width, int64_t heads_, int64_t embed_dim)
    : heads(heads_),
      positional_embedding(Variable::parameter({places + 1, width})),
      q_proj(width, width),
      k_proj(width, width),
      v_proj(width, width),
      c_proj(width, embed_dim) {}

void AttentionPool::collect(ParameterList& list, const std::string& prefix) const {
  list.add(prefix + ".positional_embedding", positional_embedding);
  k_proj.collect(list, prefix + ".k_proj");
  q_proj.collect(list, prefix + ".q_proj");
  v_proj.collect(list, prefix + ".v_proj");
  c_proj.collect(list, prefix + ".c_proj");
}

Variable AttentionPool::operator()(const Variable& x) const {
  const int64_t images = x.size(0), count = positional_embedding.size(0);
  const Variable tokens = mean_token(x, positional_embedding);
  const Tensor first_rows = ramp(x.backend(), images, count);
  const Sequences sequences{ramp(x.backend(), images + 1, 1), ramp(x.backend(), images + 1, count),
                            1, count};
  const auto apply = [](const Linear& proj, const Variable& rows) {
    return linear(rows, proj.weight, proj.bias);
  };
  const Variable query = apply(q_proj, gather_rows(tokens, first_rows));
  const Variable attended =
      attention(query, apply(k_proj, tokens), apply(v_proj, tokens), sequences, {.heads = heads});
  return project(attended, c_proj.weight, c_proj.bias);
}

ModifiedResNet::ModifiedResNet(const VisionConfig& config_, int64_t embed_dim)
    : config(config_),
      conv1(conv_weight(3, config.width / 2, 3)),
      conv2(conv_weight(config.width / 2, config.width / 2, 3)),
      conv3(conv_weight(config.width / 2, config.width, 3)),
      bn1(config.width / 2),
      bn2(config.width / 2),
      bn3(config.width),
      attnpool(config.patches(), config.feature_width(), config.heads(), embed_dim) {
  int64_t inputs = config.width, channels = config.width;
  for (const int64_t blocks : config.stages) {
    auto& stage = layers.emplace_back();
    for (int64_t block = 0; block < blocks; ++block) {
      stage.emplace_back(inputs, channels, layers.size() > 1 && block == 0 ? 2 : 1);
      inputs = 4 * channels;
    }
    channels *= 2;
  }
}

void ModifiedResNet::collect(ParameterList& list, const std::string& prefix) const {
  collect_convolutions(*this, list, prefix);
  for (size_t stage = 0; stage < layers.size(); ++stage)
    for (size_t block = 0; block < layers[stage].size(); ++block)
      layers[stage][block].collect(list, concat(prefix, ".layer", stage + 1, '.', block));
  attnpool.collect(list, prefix + ".attnpool");
}

namespace {

/// block(x), with or without keeping what it computes on the way.
Variable run_block(const Bottleneck& block, const Variable& x, const TowerOptions& options) {
  if (options.activations == Activations::kKept) return block(x, options.batch_norm);
  // The second run, in backward, must not move the running statistics again.
  const auto mode = std::make_shared<BatchNormMode>(options.batch_norm);
  return recompute(
      [&block, mode](const std::vector<Variable>& in) {
        const Variable y = block(in[0], *mode);
        mode->running = BatchNormMode::Running::kLeft;
        return std::vector<Variable>{y};
      },
      {x})[0];
}

}  // namespace

Variable ModifiedResNet::operator()(const Tensor& images, const Tensor& kept_tokens,
                                    const TowerOptions& options) const {
  check_images(images, config.image_size);
  CLIP_CHECK(!kept_tokens.defined(), "[encode_image] a ResNet has no patches to drop");
  const BatchNormMode& mode = options.batch_norm;
  const Variable pixels = normalized_pixels(images, config.preprocess.statistics(), conv1.dtype());
  Variable x = bn1(conv2d(pixels, conv1, 2), mode);
  x = bn2(conv2d(x, conv2), mode);
  x = avg_pool(bn3(conv2d(x, conv3), mode), 2);
  for (const auto& stage : layers)
    for (const Bottleneck& block : stage) x = run_block(block, x, options);
  return attnpool(x);
}

}  // namespace clip
