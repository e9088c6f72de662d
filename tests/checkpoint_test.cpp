#include "models/checkpoint.h"

#include <gtest/gtest.h>

#include "models/safetensors.h"
#include "tests/error_message.h"
#include "tests/small_checkpoint.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

template <class T>
void expect_round_trip(DType dtype) {
  const ScratchFolder folder;
  const std::string path = folder.path("run/checkpoints/step_7");
  SmallModel model(dtype), loaded(dtype);
  model.randomize<T>();
  save(path, model);
  EXPECT_EQ(names_in(path), kFiles);
  load_parameters(path, loaded.list);
  const TrainingState training = load_training_state(path, loaded.list);
  EXPECT_EQ(loaded.all<T>(), model.all<T>());
  EXPECT_EQ(training.step, kTraining.step);
  EXPECT_EQ(training.optimizer_steps, kTraining.optimizer_steps);
  EXPECT_EQ(training.seed, kTraining.seed);
  EXPECT_EQ(training.options, kTraining.options);
  EXPECT_EQ(to_json(load_config(path)), to_json(small_config()));
  EXPECT_EQ(load_tokenizer(path).merges(), small_tokenizer().merges());
}

TEST(Checkpoint, RoundTripKeepsEveryBitOfF32) { expect_round_trip<float>(DType::kF32); }
TEST(Checkpoint, RoundTripKeepsEveryBitOfF64) { expect_round_trip<double>(DType::kF64); }

/// A list of one parameter and the buffers of one BatchNorm.
struct ListWithBuffers {
  ListWithBuffers() {
    list.add("bn1.weight", Variable::parameter({2}));
    list.add_buffer("bn1.running_mean", Variable::parameter({2}));
    list.add_buffer("bn1.num_batches_tracked", Variable::parameter({}));
    list.allocate(cpu_backend(), DType::kF32);
  }
  std::vector<float> buffer(size_t index) {
    return ParameterList::view(list.buffer_values(), list.buffers()[index]).to_vector<float>();
  }
  ParameterList list;
};

TEST(Checkpoint, HoldsRunningStatisticsBesideTheWeights) {
  const ScratchFolder folder;
  ListWithBuffers model, loaded;
  ParameterList::view(model.list.buffer_values(), model.list.buffers()[0])
      .copy_from_host(std::vector<float>{0.25f, -3}.data());
  save_checkpoint(folder.path("a"), small_config(), model.list, small_tokenizer(), nullptr);
  load_parameters(folder.path("a"), loaded.list);
  EXPECT_EQ(loaded.buffer(0), (std::vector<float>{0.25f, -3}));
  EXPECT_EQ(loaded.list.count(), 2);
}

TEST(Checkpoint, ReadsPyTorchsCountOfBatchesWhichIsAnI64) {
  const ScratchFolder folder;
  ListWithBuffers model;
  save_checkpoint(folder.path("a"), small_config(), model.list, small_tokenizer(), nullptr);
  const std::string header =
      R"({"bn1.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("bn1.running_mean":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
      R"("bn1.weight":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}})";
  const uint64_t length = header.size();
  const int64_t count = 70000;
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += header + std::string(reinterpret_cast<const char*>(&count), sizeof count);
  write_file(folder.path("a") + kWeights, bytes + std::string(16, '\0'));
  load_parameters(folder.path("a"), model.list);
  EXPECT_EQ(model.buffer(1), std::vector<float>{70000});
}

TEST(Checkpoint, SavingTheSameStateTwiceGivesTheSameBytes) {
  const ScratchFolder folder;
  SmallModel model;
  model.randomize<float>();
  save(folder.path("a"), model);
  save(folder.path("b"), model);
  for (const std::string& name : kFiles)
    EXPECT_EQ(read_file(folder.path("a/" + name), kWholeFile),
              read_file(folder.path("b/" + name), kWholeFile))
        << name;
}

TEST(Checkpoint, WithoutTrainingStateItIsForInferenceOnly) {
  const ScratchFolder folder;
  const std::string path = folder.path("a");
  SmallModel model;
  save(path, model, nullptr);
  EXPECT_FALSE(fs::exists(path + kState));
  EXPECT_EQ(find_checkpoint(path), path);
  const std::string message = error_message([&] { load_training_state(path, model.list); });
  EXPECT_TRUE(says(message, path, "weights only", "training_state.safetensors")) << message;
}

TEST(Checkpoint, AnOlderOneOfTheSameNameIsReplacedWhole) {
  const ScratchFolder folder;
  const std::string path = folder.path("step_1");
  SmallModel model, loaded;
  save(path, model);
  folder.write("step_1/notes.txt", "of the old one");
  model.randomize<float>();
  save(path, model, nullptr);
  EXPECT_EQ(names_in(folder.path()), Names{"step_1"});
  EXPECT_EQ(names_in(path), Names(kFiles.begin(), kFiles.end() - 1));
  load_parameters(path, loaded.list);
  EXPECT_EQ(loaded.all<float>()[0], model.all<float>()[0]);
}

TEST(Checkpoint, DoesNotReplaceAFolderOfOtherThings) {
  const ScratchFolder folder;
  SmallModel model;
  folder.write("home/precious.txt", "x");
  folder.write("file", "x");
  const std::string home = error_message([&] { save(folder.path("home"), model); });
  EXPECT_TRUE(says(home, folder.path("home"), "holds other things")) << home;
  EXPECT_EQ(names_in(folder.path("home")), Names{"precious.txt"});
  const std::string file = error_message([&] { save(folder.path("file"), model); });
  EXPECT_TRUE(says(file, folder.path("file"), "it is a file")) << file;
  fs::create_directory(folder.path("empty"));
  save(folder.path("empty"), model);
  EXPECT_EQ(names_in(folder.path("empty")), kFiles);
}

TEST(Checkpoint, DoesNotReplaceAnotherLibrarysModel) {
  const ScratchFolder folder;
  SmallModel model;
  for (const char* file : {"model.safetensors", "pytorch_model.bin", "model.pt"}) {
    const std::string home = concat("home of ", file);
    folder.write(concat(home, '/', file), "x");
    folder.write(home + "/thesis.txt", "x");
    const std::string refusal = error_message([&] { save(folder.path(home), model); });
    EXPECT_TRUE(says(refusal, folder.path(home), "holds other things")) << refusal;
    EXPECT_EQ(names_in(folder.path(home)), (Names{file, "thesis.txt"}));
  }
}

TEST(Checkpoint, TheFolderMayEndInASlashOrBeALink) {
  const ScratchFolder folder;
  SmallModel model;
  save(folder.path("far/step_1"), model);
  fs::create_symlink("far/step_1", folder.path("link"));
  save(folder.path("link"), model, nullptr);
  save(folder.path("plain") + "/", model);
  EXPECT_TRUE(fs::is_symlink(folder.path("link")));
  EXPECT_FALSE(fs::exists(folder.path("far/step_1") + kState));
  EXPECT_EQ(names_in(folder.path()), (Names{"far", "link", "plain"}));
}

TEST(Checkpoint, RefusesATokenizerThatIsLargerThanTheEmbedding) {
  const ScratchFolder folder;
  SmallModel model;
  ClipConfig config = small_config();
  config.text.vocab_size = small_tokenizer().vocab_size() - 1;
  const std::string message = error_message(
      [&] { save_checkpoint(folder.path("a"), config, model.list, small_tokenizer(), nullptr); });
  EXPECT_TRUE(says(message, folder.path("a"),
                   "has " + std::to_string(small_tokenizer().vocab_size()) + " ids",
                   "vocab_size is " + std::to_string(config.text.vocab_size)))
      << message;
  EXPECT_TRUE(names_in(folder.path()).empty());
}

// Writes other weights into a checkpoint and tells what loading says; nothing may be loaded.
std::string refusal_of_weights(const std::string& path, const std::vector<SafetensorsItem>& items) {
  write_safetensors(path + kWeights, items, {});
  SmallModel model;
  model.randomize<float>();
  const auto before = model.all<float>();
  const std::string message = error_message([&] { load_parameters(path, model.list); });
  EXPECT_EQ(model.all<float>(), before);
  return message;
}

TEST(Checkpoint, NamesTheTensorThatDoesNotFit) {
  const ScratchFolder folder;
  const std::string path = folder.path("a");
  SmallModel model;
  save(path, model, nullptr);
  const std::vector<float> data(100'000, 1.f);
  const std::vector<SafetensorsItem> good = {
      {"conv1.weight", DType::kF32, {5, 3, 2, 2}, data.data()},
      {"token_embedding.weight", DType::kF32, {300, 65}, data.data()},
      {"ln_final.bias", DType::kF32, {7}, data.data()},
      {"logit_scale", DType::kF32, {1}, data.data()}};

  std::vector<SafetensorsItem> items = good;
  items[1].shape = {65, 300};
  std::string message = refusal_of_weights(path, items);
  EXPECT_TRUE(says(message, path + kWeights, "token_embedding.weight", "[300,65]", "[65,300]"))
      << message;

  items = good;
  items.erase(items.begin());
  message = refusal_of_weights(path, items);
  EXPECT_TRUE(says(message, path + kWeights, "conv1.weight", "missing")) << message;

  items = good;
  items.push_back({"logit_bias", DType::kF32, {}, data.data()});
  message = refusal_of_weights(path, items);
  EXPECT_TRUE(says(message, path + kWeights, "logit_bias", "no place")) << message;

  items = good;
  items[2].dtype = DType::kI32;
  message = refusal_of_weights(path, items);
  EXPECT_TRUE(says(message, path + kWeights, "ln_final.bias", "I32", "F32")) << message;

  write_safetensors(path + kWeights, good, {});
  load_parameters(path, model.list);  // logit_scale as [1] is open_clip's other form
  EXPECT_EQ(model.list.find("logit_scale").value().item(), 1.0);
}

TEST(Checkpoint, TellsWhatIsWrongWithATrainingState) {
  const ScratchFolder folder;
  const std::string path = folder.path("a");
  SmallModel model;
  save(path, model);
  const auto refusal = [&] {
    return error_message([&] { load_training_state(path, model.list); });
  };
  write_safetensors(path + kState, {}, {{"step", "1"}, {"optimizer_steps", "1"}});
  EXPECT_TRUE(says(refusal(), path + kState, "no seed")) << refusal();
  write_safetensors(path + kState, {}, {{"step", "-1"}, {"optimizer_steps", "1"}, {"seed", "1"}});
  EXPECT_TRUE(says(refusal(), path + kState, "step", "\"-1\"")) << refusal();
  write_safetensors(path + kState, {}, {{"step", "1x"}, {"optimizer_steps", "1"}, {"seed", "1"}});
  EXPECT_TRUE(says(refusal(), path + kState, "step", "\"1x\"")) << refusal();
  write_safetensors(path + kState, {}, {{"step", "1"}, {"optimizer_steps", "1"}, {"seed", "1"}});
  EXPECT_TRUE(says(refusal(), path + kState, "first_moment/conv1.weight", "missing")) << refusal();
  ParameterList without;
  without.add("x", Variable::parameter({1}));
  without.allocate(cpu_backend(), DType::kF32);
  EXPECT_TRUE(says(error_message([&] { load_training_state(path, without); }), "no moments"));
}

TEST(Checkpoint, NamesTheFileThatIsMissingOrDamaged) {
  SmallModel model;
  for (const std::string& name : kFiles) {
    if (name == "tokenizer_config.json") continue;  // open_clip's, not ours
    for (const bool is_cut : {false, true}) {
      const ScratchFolder folder;
      const std::string path = folder.path("a"), file = path + "/" + name;
      save(path, model);
      if (is_cut) {
        fs::resize_file(file, fs::file_size(file) / 2);
      } else {
        fs::remove(file);
      }
      const std::string message = error_message([&] {
        load_config(path);
        load_tokenizer(path);
        load_parameters(path, model.list);
        load_training_state(path, model.list);
      });
      EXPECT_TRUE(says(message, path, name)) << message;
    }
  }
}

TEST(Checkpoint, TheNewestWholeOneOfARunIsFound) {
  const ScratchFolder folder;
  const std::string run = folder.path("run");
  SmallModel model;
  EXPECT_EQ(newest_checkpoint(run), std::nullopt);
  for (const char* name : {"step_9", "step_10", "step_100", "step_2000", "step_", "step_20x",
                           "best", ".step_3000.tmp-1-0"})
    save(run + "/checkpoints/" + name, model);
  const auto at = [&](const char* name) { return run + "/checkpoints/" + name; };
  EXPECT_EQ(newest_checkpoint(run), at("step_2000"));
  EXPECT_EQ(find_checkpoint(run), at("step_2000"));
  EXPECT_EQ(find_checkpoint(run + "/checkpoints"), at("step_2000"));
  EXPECT_EQ(find_checkpoint(at("best")), at("best"));
  const std::string weights = at("step_2000") + kWeights;
  fs::resize_file(weights, fs::file_size(weights) - 1);
  EXPECT_EQ(newest_checkpoint(run), at("step_100"));
  fs::remove(at("step_100") + "/open_clip_config.json");
  EXPECT_EQ(newest_checkpoint(run), at("step_10"));
  const std::string state = at("step_10") + kState;
  fs::resize_file(state, fs::file_size(state) - 1);
  EXPECT_EQ(newest_checkpoint(run), at("step_9"));
  fs::remove(at("step_9") + "/tokenizer.json");
  EXPECT_EQ(newest_checkpoint(run), std::nullopt);
}

TEST(Checkpoint, TellsWhatWasLookedForWhereThereIsNone) {
  const ScratchFolder folder;
  const auto refusal = [](const std::string& path) {
    return error_message([&] { find_checkpoint(path); });
  };
  EXPECT_TRUE(says(refusal(folder.path("none")), folder.path("none"), "no checkpoint or run"));
  EXPECT_TRUE(says(refusal(folder.path()), folder.path(), "open_clip_config.json", "step_<k>"));
  const std::string text = folder.write("model.pt", "x");
  EXPECT_EQ(find_checkpoint(text), text);  // a weight file, for all its name tells
  EXPECT_TRUE(says(error_message([&] { load_config(text); }), text, "no torch file"));
}

}  // namespace
}  // namespace clip
