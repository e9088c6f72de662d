// OpenAI's initialisation. Source: openai/CLIP clip/model.py, initialize_parameters, and PyTorch's
// defaults where it leaves them: the blocks of the image tower, and the biases of every Linear.
#include <cmath>
#include <functional>

#include "engine/random.h"
#include "models/clip.h"

namespace clip {
namespace {

/// How one tensor starts: every value drawn alike.
struct Start {
  enum class Kind { kNormal, kUniform, kConstant } kind;
  double value;  // standard deviation, bound, or the constant
};

Start normal(double deviation) { return {Start::Kind::kNormal, deviation}; }
Start uniform(double bound) { return {Start::Kind::kUniform, bound}; }
Start constant(double value) { return {Start::Kind::kConstant, value}; }
double inverse_root(double x) { return 1.0 / std::sqrt(x); }

bool ends_with(const std::string& name, const std::string& end) { return name.ends_with(end); }

/// Parameters of one residual block; `name` is the part after "resblocks.<i>.".
Start block_start(const std::string& name, bool text, double width, double layers, double mlp) {
  if (ends_with(name, "in_proj_bias") || ends_with(name, "out_proj.bias")) return constant(0);
  if (ends_with(name, "c_fc.bias")) return uniform(inverse_root(width));
  if (ends_with(name, "c_proj.bias")) return uniform(inverse_root(mlp));
  if (text) {
    const double branch = inverse_root(width) * inverse_root(2 * layers);
    if (ends_with(name, "in_proj_weight")) return normal(inverse_root(width));
    if (ends_with(name, "c_fc.weight")) return normal(inverse_root(2 * width));
    return normal(branch);  // out_proj and c_proj end a residual branch
  }
  if (ends_with(name, "in_proj_weight"))
    return uniform(std::sqrt(6.0 / (4 * width)));  // Xavier, [3 C, C]
  if (ends_with(name, "c_proj.weight")) return uniform(inverse_root(mlp));
  return uniform(
      inverse_root(width));  // out_proj, c_fc: kaiming_uniform(sqrt 5) is 1 / sqrt(fan in)
}

/// Parameters of a ModifiedResNet. Source: openai/CLIP clip/model.py, which starts every residual
/// branch at zero and keeps PyTorch's defaults for convolutions.
Start resnet_start(const std::string& name, const Shape& shape, double feature_width) {
  if (name.find("attnpool.") != std::string::npos) {
    if (ends_with(name, ".bias")) return uniform(inverse_root(feature_width));
    return normal(inverse_root(feature_width));
  }
  if (shape.rank() == 4)  // kaiming_uniform(sqrt 5) is 1 / sqrt(fan in)
    return uniform(inverse_root(static_cast<double>(shape[1] * shape[2] * shape[3])));
  const bool ends_branch =
      name.find(".layer") != std::string::npos && ends_with(name, ".bn3.weight");
  return constant(ends_with(name, ".weight") && !ends_branch ? 1 : 0);  // BatchNorm
}

Start start_of(const std::string& name, const Shape& shape, const ClipConfig& config) {
  const bool text = !name.starts_with("visual.");
  const double width = static_cast<double>(text ? config.text.width : config.vision.width);
  if (name == "logit_scale") return constant(config.init_logit_scale);
  if (name == "logit_bias") return constant(*config.init_logit_bias);
  if (!text && config.vision.is_resnet())
    return resnet_start(name, shape, static_cast<double>(config.vision.feature_width()));
  if (ends_with(name, ".gamma"))
    return constant(text ? config.text.ls_init_value : config.vision.ls_init_value);
  if (name.find("ln_") != std::string::npos) return constant(ends_with(name, ".weight") ? 1 : 0);
  if (name.find("resblocks.") != std::string::npos) {
    const double layers = static_cast<double>(text ? config.text.layers : config.vision.layers);
    const double mlp =
        static_cast<double>(text ? config.text.mlp_width() : config.vision.mlp_width());
    return block_start(name, text, width, layers, mlp);
  }
  if (name == "token_embedding.weight") return normal(0.02);
  if (name == "positional_embedding") return normal(0.01);
  if (ends_with(name, "conv1.weight"))  // Conv2d's default, fan in 3 K K
    return uniform(inverse_root(static_cast<double>(shape[1] * shape[2] * shape[3])));
  return normal(
      inverse_root(width));  // class and positional embedding of the image tower, both projections
}

void fill(Tensor tensor, const Start& start, Random random) {
  const std::function<double()> draw = [&]() -> double {
    switch (start.kind) {
      case Start::Kind::kNormal:
        return start.value * random.normal();
      case Start::Kind::kUniform:
        return random.uniform(-start.value, start.value);
      case Start::Kind::kConstant:
        return start.value;
    }
    return 0;
  };
  std::vector<double> values(static_cast<size_t>(tensor.numel()));
  for (double& value : values) value = draw();
  const Tensor drawn = Tensor::from<double>(tensor.backend(), tensor.shape(), values);
  tensor.backend().convert(tensor, drawn);
}

}  // namespace

void initialize(ParameterList& parameters, const ClipConfig& config, uint64_t seed) {
  for (const Parameter& parameter : parameters.parameters())
    fill(ParameterList::view(parameters.values(), parameter),
         start_of(parameter.name, parameter.variable.shape(), config),
         Random(seed, random_stream("initialize/" + parameter.name)));
  parameters.round_values();
  for (const Parameter& buffer : parameters.buffers())
    fill(ParameterList::view(parameters.buffer_values(), buffer),
         constant(ends_with(buffer.name, ".running_var") ? 1 : 0), Random(seed, 0));
}

}  // namespace clip
