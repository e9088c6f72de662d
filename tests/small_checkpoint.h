// A small model and its checkpoint, for tests of the files.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/random.h"
#include "models/atomic_file.h"
#include "models/checkpoint.h"
#include "tests/scratch_folder.h"

namespace clip {

inline constexpr const char* kWeights = "/open_clip_model.safetensors";
inline constexpr const char* kState = "/training_state.safetensors";
inline constexpr int64_t kWholeFile = 1 << 30;

inline ClipConfig small_config() {
  ClipConfig config = preset("emoji");
  config.text.vocab_size = 600;
  return config;
}

inline Tokenizer small_tokenizer() {
  return Tokenizer::learn({"two lions", "two small lions"}, 530);
}

// A few parameters of every rank; checkpoints do not look at what a model makes of them.
struct SmallModel {
  explicit SmallModel(DType dtype = DType::kF32, int64_t rows = 300) {
    list.add("conv1.weight", Variable::parameter({5, 3, 2, 2}));
    list.add("token_embedding.weight", Variable::parameter({rows, 65}));
    list.add("ln_final.bias", Variable::parameter({7}));
    list.add("logit_scale", Variable::parameter({}));
    list.allocate(cpu_backend(), dtype);
    list.allocate_training_state();
  }

  // No parallel loop: children that are to be killed call this.
  template <class T>
  void fill(const std::function<T(int buffer, const Parameter&, int64_t index)>& value) {
    Tensor* const buffers[] = {&list.values(), &list.first_moments(), &list.second_moments()};
    for (int buffer = 0; buffer < 3; ++buffer) {
      for (const Parameter& parameter : list.parameters()) {
        T* data = ParameterList::view(*buffers[buffer], parameter).template data<T>();
        for (int64_t i = 0; i < parameter.variable.shape().numel(); ++i)
          data[i] = value(buffer, parameter, i);
      }
    }
  }

  template <class T>
  void randomize() {
    fill<T>([](int buffer, const Parameter& parameter, int64_t index) {
      Random random(static_cast<uint64_t>(buffer), random_stream(parameter.name));
      random.skip_to(static_cast<uint64_t>(2 * index));
      return static_cast<T>(random.uniform() - 0.5);
    });
  }

  template <class T>
  std::vector<std::vector<T>> all() {
    return {list.values().to_vector<T>(), list.first_moments().to_vector<T>(),
            list.second_moments().to_vector<T>()};
  }

  ParameterList list;
};

inline const TrainingState kTraining = {123456789012, 123456789000, ~uint64_t{0},
                                        "{\"lr\": 0.1,\n \"x\": \"\xc3\xbc\"}", 24};

inline void save(const std::string& folder, SmallModel& model,
                 const TrainingState* training = &kTraining) {
  save_checkpoint(folder, small_config(), model.list, small_tokenizer(), training);
}

inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

using Names = std::vector<std::string>;
inline const Names kFiles = {"open_clip_config.json", "open_clip_model.safetensors",
                             "tokenizer.json", "tokenizer_config.json",
                             "training_state.safetensors"};

}  // namespace clip
