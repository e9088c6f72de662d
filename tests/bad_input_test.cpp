// What a user may get wrong, through the programs: one sentence, exit code 2 for a wrong option and
// 1 for everything else, nothing half-written. Odd but readable inputs work.
#include <unistd.h>

#include "models/safetensors.h"
#include "tests/child_process.h"
#include "tests/reference_path.h"
#include "tests/run_command.h"
#include "tests/train_app_test.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

class BadInput : public TrainApp {
 protected:
  /// Expects a refusal before anything is written.
  void train_refuses(const Strings& own, int status, const Strings& parts) const {
    expect_refused(run_app("train", options(own), folder_), "train", status, parts);
    EXPECT_FALSE(fs::exists(folder_.path() + "/runs"));
    EXPECT_FALSE(holds_temporaries(folder_.path()));
  }
  void train_refuses_data(const std::string& data, int status, const Strings& parts) const {
    train_refuses({"--train-data", data, "--steps", "2"}, status, parts);
  }

  AppResult zero_shot(const Strings& own, const std::string& labels = "a,b") const {
    Strings all = {"--checkpoint", "model", "--labels", labels, "--device", "cpu"};
    all.insert(all.end(), own.begin(), own.end());
    return run_app("zero_shot", all, folder_);
  }
  void zero_shot_refuses(const Strings& own, int status, const Strings& parts) const {
    const AppResult result = zero_shot(own);
    expect_refused(result, "zero_shot", status, parts);
    EXPECT_EQ(result.out, "");
  }

  /// A checkpoint of untrained weights in the folder "model".
  void make_model() const {
    ASSERT_EQ(run_app("train",
                      options({"--train-data", "pairs.csv", "--steps", "0", "--logs", "made",
                               "--name", "a"}),
                      folder_)
                  .status,
              0);
    fs::rename(folder_.path() + "/made/a/checkpoints/step_0", folder_.path() + "/model");
    fs::remove_all(folder_.path() + "/made");
  }

  /// Writes NAME.csv of pictures with a caption each.
  void write_csv(const std::string& name, const Strings& pictures) const {
    std::string csv = "filepath,title\n";
    for (size_t i = 0; i < pictures.size(); ++i) csv += concat(pictures[i], ",caption ", i, '\n');
    folder_.write(name, csv);
  }

  AppResult train_two_epochs(const std::string& data) const {
    return run_app("train", options({"--train-data", data, "--epochs", "2", "--name", "a"}),
                   folder_);
  }

  void write_half(const std::string& of, const std::string& name) const {
    const std::string whole = file_bytes(of);
    ASSERT_FALSE(whole.empty()) << of;
    folder_.write(name, whole.substr(0, whole.size() / 2));
  }
};

int64_t count_of(const std::string& part, const std::string& text) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(BadInput, UnknownOptionsAndArgumentsAreNamed) {
  train_refuses({"--bath-size", "3"}, 2, {"--bath-size", "--help"});
  train_refuses({"--step", "3"}, 2, {"--step"});  // the beginning of one is no option
  train_refuses({"pairs.csv"}, 2, {"unexpected argument 'pairs.csv'"});
  zero_shot_refuses({"--image", "a.png"}, 2, {"--image", "--help"});
}

TEST_F(BadInput, WrongValuesOfOptionsAreNamed) {
  const std::vector<std::pair<std::string, std::string>> wrong = {{"--steps", "-2"},
                                                                  {"--steps", "1e3"},
                                                                  {"--lr", "abc"},
                                                                  {"--lr", "nan"},
                                                                  {"--lr", "-1"},
                                                                  {"--warmup", "-5"},
                                                                  {"--beta1", "1"},
                                                                  {"--seed", "-1"},
                                                                  {"--lr-scheduler", "linear"},
                                                                  {"--augment", "all"},
                                                                  {"--workers", "-1"},
                                                                  {"--workers", "1000000"},
                                                                  {"--log-every-n-steps", "0"},
                                                                  {"--epochs", "-1"},
                                                                  {"--grad-clip-norm", "inf"}};
  for (const auto& [option, value] : wrong) train_refuses({option, value}, 2, {option, value});
  expect_refused(run_app("train", {"--batch-size", "-3"}, folder_), "train", 2,
                 {"--batch-size must be at least 1, got -3"});
  expect_refused(run_app("train", {"--device", "gpu"}, folder_), "train", 2, {"--device", "'gpu'"});
  train_refuses({"--steps"}, 2, {"--steps"});
  train_refuses({"--csv-img-key", "\xff"}, 2, {"--csv-img-key must be UTF-8"});
  train_refuses({"--train-data", "pairs.csv", "--csv-separator", "ab"}, 2, {"separator", "'ab'"});
  train_refuses({"--font", "m.json"}, 1, {"m.json"});
  zero_shot_refuses({"--images", "a.png", "--top-k", "0"}, 2, {"--top-k", "at least 1"});
  zero_shot_refuses({}, 2, {"--images", "--data"});
  make_model();
  zero_shot_refuses({"--images", "pairs/00.png", "--template", "a photo"}, 2, {"{}", "'a photo'"});
}

TEST_F(BadInput, AGpuThatIsNotThereIsARunTimeError) {
  expect_refused(run_app("train", {"--device", "cuda:99"}, folder_), "train", 1, {"cuda:99"});
}

TEST_F(BadInput, MissingFilesAreNamed) {
  train_refuses_data("none.csv", 1, {"none.csv"});
  train_refuses_data("none.tar", 1, {"none.tar"});
  train_refuses_data("none", 2, {"'none'", "folder"});
  train_refuses({"--val-data", "none.csv"}, 1, {"none.csv"});
  train_refuses({"--config", "none.json"}, 1, {"none.json"});
  expect_refused(run_app("train", {"--model", "none.json"}, folder_), "train", 1, {"none.json"});
  expect_refused(run_app("train", {"--model", "none"}, folder_), "train", 2,
                 {"'none'", "ViT-B-32"});
  train_refuses({"--pretrained", "none"}, 1, {"none"});
  train_refuses({"--tokenizer", "none.json"}, 1, {"none.json"});
  train_refuses({"--bpe", "none.gz"}, 1, {"none.gz"});
  zero_shot_refuses({"--images", "pairs/00.png"}, 1, {"model"});
  make_model();
  zero_shot_refuses({"--images", "none.png"}, 1, {"none.png"});
  zero_shot_refuses({"--images", "pairs/00.png", "--labels-file", "none.txt"}, 1, {"none.txt"});
  zero_shot_refuses({"--images", "pairs/00.png", "--templates-file", "pairs"}, 1,
                    {"pairs", "folder"});
  zero_shot_refuses({"--data", "none"}, 1, {"none"});
}

TEST_F(BadInput, ACsvWithoutTheColumnNamesItAndThoseItHas) {
  folder_.write("a.csv", "picture,text\npairs/00.png,one\n");
  train_refuses_data("a.csv", 1, {"a.csv", "'filepath'", "'picture'", "'text'"});
  train_refuses({"--train-data", "a.csv", "--csv-img-key", "picture"}, 1, {"'title'", "'text'"});
  ASSERT_EQ(run_app("train",
                    options({"--train-data", "a.csv", "--csv-img-key", "picture",
                             "--csv-caption-key", "text", "--steps", "1"}),
                    folder_)
                .status,
            0);
}

TEST_F(BadInput, AnEmptyDataSetIsRefused) {
  folder_.write("empty.csv", "");
  folder_.write("header.tsv", "filepath\ttitle\n");
  folder_.write("empty.tar", "");
  folder_.write("text/a.txt", "a caption alone");
  for (const std::string data : {"empty.csv", "header.tsv", "empty.tar", "text"})
    train_refuses_data(data, 1, {data});
  make_model();
  zero_shot_refuses({"--data", "text"}, 1, {"text"});
  fs::create_directories(folder_.path("classes/cat"));
  zero_shot_refuses({"--data", "classes"}, 1, {"cat"});
}

TEST_F(BadInput, TruncatedPicturesAreRefusedBeforeAnythingIsPrinted) {
  make_model();
  write_half(reference_path("images/rgb.png"), "half.png");
  write_half(reference_path("images/full_color.jpg"), "half.jpg");
  folder_.write("text.png", "not a picture");
  for (const std::string name : {"half.png", "half.jpg", "text.png"})
    zero_shot_refuses({"--images", "pairs/00.png", name}, 1, {name});
}

TEST_F(BadInput, TruncatedPicturesOfADataSetAreSkippedCountedAndNamedOnce) {
  write_half(reference_path("images/rgb.png"), "half.png");
  write_half(reference_path("images/full_color.jpg"), "half.jpg");
  Strings pictures = {"half.png", "half.jpg", "missing.png"};
  for (int64_t i = 0; i < 13; ++i) pictures.push_back("pairs/" + sample_name(i) + ".png");
  write_csv("a.csv", pictures);
  const AppResult result = train_two_epochs("a.csv");
  EXPECT_EQ(result.status, 0) << result.err;
  for (const char* name : {"half.png", "half.jpg", "missing.png"})
    EXPECT_EQ(count_of(name, result.out), 1) << result.out;
  // Three in each of two epochs, and those drawn in their place that were broken too.
  const size_t place = result.out.find("took a broken one's place ");
  ASSERT_NE(place, std::string::npos) << result.out;
  EXPECT_GE(std::stoi(result.out.substr(result.out.find("place ", place) + 6)), 6);
}

TEST_F(BadInput, ADataSetOfBrokenPicturesAloneIsRefused) {
  write_csv("a.csv", {"missing.png"});
  expect_refused(train_two_epochs("a.csv"), "train", 1, {"broken", "missing.png"});
  EXPECT_FALSE(fs::exists(folder_.path("runs")));
}

TEST_F(BadInput, PicturesOfAnySizeWork) {
  make_model();
  save_png(noise_picture(1, 1, 1), folder_.path("dot.png"));
  save_png(noise_picture(20'000, 1, 2), folder_.path("line.png"));
  save_png(noise_picture(20'000, 20, 3), folder_.path("wide.png"));
  save_png(noise_picture(1, 20'000, 4), folder_.path("tall.png"));
  const Strings pictures = {"dot.png", "line.png", "wide.png", "tall.png"};
  write_csv("a.csv", pictures);
  Strings arguments = {"--images"};
  arguments.insert(arguments.end(), pictures.begin(), pictures.end());
  const AppResult named = zero_shot(arguments);
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(lines_of(named.out).size(), 12u) << named.out;
  const AppResult trained = train_two_epochs("a.csv");
  EXPECT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out.find("left out"), std::string::npos) << trained.out;
}

TEST_F(BadInput, GreyPaletteSixteenBitAndAlphaPicturesWork) {
  make_model();
  Strings arguments = {"--images"}, pictures;
  for (const char* name : {"grey", "palette", "rgb16", "grey16", "rgba", "grey_alpha", "one_bit"})
    pictures.push_back(reference_path(concat("images/", name, ".png")));
  arguments.insert(arguments.end(), pictures.begin(), pictures.end());
  write_csv("a.csv", pictures);
  const AppResult named = zero_shot(arguments);
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(lines_of(named.out).size(), 3 * pictures.size()) << named.out;
  const AppResult trained = train_two_epochs("a.csv");
  EXPECT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out.find("left out"), std::string::npos) << trained.out;
}

TEST_F(BadInput, EmptyAndEndlessCaptionsWork) {
  folder_.write("a.csv", "filepath,title\npairs/00.png,\npairs/01.png,\"\"\npairs/02.png," +
                             std::string(10'000, 'x') + "\n");
  const AppResult result = train_two_epochs("a.csv");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out.find("left out"), std::string::npos) << result.out;
  make_model();
  EXPECT_EQ(zero_shot({"--images", "pairs/00.png"}, "a," + std::string(10'000, 'x')).status, 0);
}

TEST_F(BadInput, TextThatIsNoUtf8Works) {
  folder_.write("a.csv", "filepath,title\npairs/00.png,\xff\xfe one\npairs/01.png,\xc3\n");
  EXPECT_EQ(train_two_epochs("a.csv").status, 0);
  const std::string name = "odd/\xff";
  fs::create_directories(folder_.path("odd"));
  fs::copy(folder_.path("pairs/00.png"), folder_.path(name + ".png"));
  folder_.write(name + ".txt", "\xfe");
  ASSERT_EQ(run_app("train", options({"--train-data", "odd", "--steps", "2"}), folder_).status, 0);
  make_model();
  const AppResult table = zero_shot({"--images", name + ".png"}, "\xff,b");
  EXPECT_EQ(table.status, 0) << table.err;
  expect_contains(table.out, name);
  const AppResult in_json = zero_shot({"--images", name + ".png", "--json"}, "\xff,b");
  EXPECT_EQ(in_json.status, 0) << in_json.err;
  const auto shown = nlohmann::json::parse(in_json.out);
  EXPECT_EQ(shown[0]["image"], "odd/\xef\xbf\xbd.png");  // the replacement character
}

TEST_F(BadInput, WeightsThatAreCutShortOrOfAnotherKindAreRefused) {
  make_model();
  const std::string path = folder_.path("model") + kWeights;
  const std::string whole = file_bytes(path);
  const auto both_refuse = [&](const Strings& parts) {
    zero_shot_refuses({"--images", "pairs/00.png"}, 1, parts);
    train_refuses({"--train-data", "pairs.csv", "--pretrained", "model"}, 1, parts);
  };
  for (const size_t bytes :
       {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    folder_.write(std::string("model") + kWeights, whole.substr(0, bytes));
    both_refuse({"open_clip_model.safetensors"});
  }
  folder_.write(std::string("model") + kWeights, "PK\x03\x04 something else altogether");
  both_refuse({"open_clip_model.safetensors"});
  const float value = 1;
  write_safetensors(path, {{"bert.pooler.bias", DType::kF32, {1}, &value}}, {});
  both_refuse({"open_clip_model.safetensors", "is missing"});
  fs::remove(path);
  both_refuse({"open_clip_model.safetensors"});
}

TEST_F(BadInput, WeightsOfAnotherShapeAreNamedWithBothShapes) {
  make_model();
  const std::string config = folder_.path("model/open_clip_config.json");
  auto json = nlohmann::json::parse(file_bytes(config));
  json["model_cfg"]["embed_dim"] = 24;
  folder_.write("model/open_clip_config.json", json.dump());
  train_refuses({"--train-data", "pairs.csv", "--pretrained", "model"}, 2,
                {"--model m.json", "model/open_clip_config.json"});
  folder_.write("m.json", json["model_cfg"].dump());
  zero_shot_refuses({"--images", "pairs/00.png"}, 1, {"visual.proj", "[32,24]", "[32,16]"});
  train_refuses({"--train-data", "pairs.csv", "--pretrained", "model"}, 1,
                {"visual.proj", "[32,24]", "[32,16]"});
}

TEST_F(BadInput, ATokenizerOfAnotherKindIsRefused) {
  train_refuses({"--train-data", "pairs.csv", "--tokenizer", "m.json"}, 1, {"m.json"});
  folder_.write("merges.txt", "#version: 0.2\na b\n");
  train_refuses({"--bpe", "merges.txt"}, 1, {"merges.txt", "48894", "found 1"});
  train_refuses({"--bpe", "merges.txt", "--tokenizer", "merges.txt"}, 2, {"--bpe", "--tokenizer"});
  make_model();
  folder_.write("model/tokenizer.json", "[]");
  zero_shot_refuses({"--images", "pairs/00.png"}, 1, {"tokenizer.json", "model.merges"});
}

TEST_F(BadInput, OptionFilesThatMakeNoSenseAreRefused) {
  const auto refused = [&](const std::string& text, const Strings& parts) {
    folder_.write("c.json", text);
    train_refuses({"--config", "c.json"}, 2, parts);
  };
  refused("{", {"c.json", "JSON"});
  refused("[1]", {"c.json", "JSON object"});
  refused(R"({"learning-rate": 1})", {"c.json", "'learning-rate'"});
  refused(R"({"two\nlines": 1})", {"c.json", "'two lines'"});
  refused(R"({"lr": "abc"})", {"c.json", "lr", "abc"});
  refused(R"({"lr": [1]})", {"c.json", "'lr'", "[1]"});
  refused(R"({"lr": null})", {"c.json", "'lr'", "null"});
  refused(R"({"no-shuffle": 1})", {"c.json", "'no-shuffle'", "1"});
  refused(R"({"steps": 1.5})", {"c.json", "steps", "1.5"});
  refused(R"({"seed": -1})", {"--seed", "-1"});
}

TEST_F(BadInput, ModelFilesThatMakeNoSenseAreRefused) {
  const auto refused = [&](const std::string& text, const Strings& parts) {
    folder_.write("m.json", text);
    train_refuses({}, 1, parts);
  };
  refused("", {"m.json"});
  refused("nonsense", {"m.json", "JSON"});
  refused("{}", {"m.json", "missing"});
  const auto changed = [](const char* part, const char* field, const nlohmann::json& value) {
    auto json = nlohmann::json::parse(kSmallModel);
    (*part == '\0' ? json : json[part])[field] = value;
    return json.dump();
  };
  refused(changed("vision_cfg", "width", -32), {"m.json", "width", "-32"});
  refused(changed("vision_cfg", "width", "wide"), {"m.json", "width", "wide"});
  refused(changed("vision_cfg", "patch_size", 7), {"m.json", "patch_size"});
  refused(changed("text_cfg", "heads", 5), {"m.json", "heads"});
  refused(changed("text_cfg", "layers", 0), {"m.json", "layers"});
  refused(changed("text_cfg", "flavour", 1), {"m.json", "flavour"});
  refused(changed("", "embed_dim", 1e30), {"m.json", "embed_dim"});
}

TEST_F(BadInput, ARunFolderThatCannotBeWrittenIsNamed) {
  train_refuses({"--train-data", "pairs.csv", "--logs", "m.json", "--name", "a"}, 1, {"m.json/a"});
  train_refuses({"--train-data", "pairs.csv", "--logs", "/proc", "--name", "a"}, 1, {"/proc/a"});
  if (::geteuid() == 0) return;  // may write everywhere else
  fs::create_directories(folder_.path("locked/x"));
  fs::permissions(folder_.path("locked"), fs::perms::owner_read | fs::perms::owner_exec);
  train_refuses({"--train-data", "pairs.csv", "--logs", "locked", "--name", "a"}, 1, {"locked/a"});
  fs::permissions(folder_.path("locked"), fs::perms::owner_all);
}

// Trains on a disk of `bytes`, some of them taken, that the child alone sees, and writes down what
// is left there.
AppResult train_on_small_disk(const ScratchFolder& folder, int64_t bytes, const Strings& arguments,
                              size_t taken = 0) {
  fs::create_directories(folder.path("runs"));
  const int status = in_child([&] {
    if (!mount_small_disk(folder.path("runs"), bytes)) return kCannotTest;
    if (taken > 0) folder.write("runs/filled", std::string(taken, 'x'));
    const int result = run_app("train", arguments, folder).status;
    std::string left;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path("runs")))
      if (!entry.is_directory()) left += fs::relative(entry.path(), folder.path()).string() + '\n';
    folder.write("left", left);
    return result;
  });
  return {status, file_bytes(folder.path(".stdout")), file_bytes(folder.path(".stderr"))};
}

TEST_F(BadInput, AFullDiskLeavesWholeCheckpointsAndNoTemporaries) {
  // A checkpoint has about 600,000 bytes: none fits, then one.
  for (const int64_t fitting : {0, 1}) {
    const AppResult result = train_on_small_disk(
        folder_, (400 + 600 * fitting) << 10,
        options({"--train-data", "pairs.csv", "--name", "a", "--steps", "6", "--save-steps", "2"}));
    if (result.status == kCannotTest)
      GTEST_SKIP() << "a tmpfs cannot be mounted here: full disk not tested";
    expect_refused(result, "train", 1, {"runs/a/checkpoints/step_", "No space left"});
    Strings left = lines_of(file_bytes(folder_.path("left"))), expected;
    for (const char* file : {".lock", "config.json", "log.jsonl"})
      expected.push_back(concat("runs/a/", file));
    if (fitting == 1) expected.push_back("runs/a/report.html");
    for (const std::string& file : fitting == 1 ? kFiles : Names())
      expected.push_back("runs/a/checkpoints/step_2/" + file);
    std::sort(left.begin(), left.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(left, expected);
  }
}

TEST_F(BadInput, ADiskWithoutRoomForOptionsLeavesNothing) {
  const AppResult result = train_on_small_disk(
      folder_, 4096, options({"--train-data", "pairs.csv", "--name", "a", "--steps", "1"}), 4096);
  if (result.status == kCannotTest)
    GTEST_SKIP() << "a tmpfs cannot be mounted here: full disk not tested";
  expect_refused(result, "train", 1, {"runs/a", "No space left"});
  EXPECT_EQ(file_bytes(folder_.path("left")), "runs/filled\n");
}

// As if started by a launcher whose MPI is not the build's, or by one where the build has none.
TEST_F(BadInput, ProcessesThatCannotBeJoinedAreRefused) {
  const CommandResult result = run_command("PMI_SIZE=2 " + app_path("train") + " --steps 1");
  expect_refused({result.status, "", result.output}, "train", 1,
                 {"2 processes were started together, but"});
}

}  // namespace
}  // namespace clip
