// Torch files: what is read, and what damaged or malicious ones are refused with.
#include "models/torch_file.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/app_process.h"
#include "tests/error_message.h"
#include "tests/reference_path.h"
#include "tests/torch_archive.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

std::vector<float> read(const StoredTensor& tensor) {
  std::vector<float> numbers(static_cast<size_t>(tensor.numel()));
  read_numbers(tensor, DType::kF32, numbers.data());
  return numbers;
}

const std::vector<float> kNumbers = {0, 1, 2, 3, 4, 5};

std::string number_bytes() {
  return {reinterpret_cast<const char*>(kNumbers.data()), kNumbers.size() * sizeof(float)};
}

class TorchFileTest : public ::testing::Test {
 protected:
  std::string path_of(const std::string& pickle) {
    return write_torch_archive(folder_, pickle, number_bytes());
  }
  std::string refusal(const std::string& pickle) {
    const std::string path = path_of(pickle);
    const std::string message = error_message([&] { TorchFile file(path); });
    EXPECT_TRUE(says(message, path)) << message;
    return message;
  }
  std::string tensor_refusal(const std::string& storage, int64_t elements, int64_t offset,
                             const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides) {
    return refusal(dict_of(PickleBytes().tensor(storage, elements, offset, shape, strides)));
  }

  ScratchFolder folder_;
};

TEST_F(TorchFileTest, ReadsWhatItWrote) {
  const std::string path = folder_.path("a.pt");
  const float scale = 3;
  const int32_t size = 224;
  write_torch_file(path, {{"w", DType::kF32, {2, 3}, kNumbers.data()},
                          {"scale", DType::kF32, {}, &scale},
                          {"half", DType::kF32, {6}, kNumbers.data(), {}, "F16"},
                          {"size", DType::kI32, {}, &size}});
  const TorchFile file(path);
  EXPECT_EQ(file.kind(), TorchFile::Kind::kStateDict);
  EXPECT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.entries().at("w").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(read(file.entries().at("w")), kNumbers);
  EXPECT_EQ(read(file.entries().at("half")), kNumbers);
  EXPECT_EQ(file.entries().at("half").dtype, "F16");
  EXPECT_EQ(read(file.entries().at("scale")), (std::vector<float>{3}));
  EXPECT_EQ(file.entries().at("size").dtype, "I32");
}

TEST_F(TorchFileTest, ReadsAViewThatLiesColumnByColumnAndOneInsideAStorage) {
  const TorchFile turned(
      path_of(dict_of(PickleBytes().tensor("FloatStorage", 6, 0, {3, 2}, {1, 3}))));
  EXPECT_EQ(read(turned.entries().at("x")), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  const TorchFile inside(path_of(dict_of(PickleBytes().tensor("FloatStorage", 6, 4, {2}, {1}))));
  EXPECT_EQ(read(inside.entries().at("x")), (std::vector<float>{4, 5}));
}

TEST_F(TorchFileTest, ReadsTheTensorOfAParameter) {
  PickleBytes value;
  value.global("torch._utils", "_rebuild_parameter").raw("(");
  value.raw(PickleBytes().tensor("FloatStorage", 6, 0, {6}, {1}).bytes().substr(2));
  value.raw("\x88").global("collections", "OrderedDict").raw(")RtR");
  EXPECT_EQ(read(TorchFile(path_of(dict_of(value))).entries().at("x")), kNumbers);
}

TEST_F(TorchFileTest, RefusesACallAndRunsNothing) {
  const std::string proof = folder_.path("proof");
  PickleBytes value;
  value.global("os", "system").raw("(").string("touch " + proof).raw("tR");
  std::string message = refusal(dict_of(value));
  EXPECT_TRUE(says(message, "os.system", "nothing was run")) << message;
  EXPECT_FALSE(fs::exists(proof));
  message =
      refusal(dict_of(PickleBytes().global("builtins", "eval").raw("(").string("1").raw("tR")));
  EXPECT_TRUE(says(message, "builtins.eval", "nothing was run")) << message;
  message = refusal(dict_of(PickleBytes().global("evil", "Class").raw(")\x81")));
  EXPECT_TRUE(says(message, "evil.Class", "class", "nothing was run")) << message;
  // INST, OBJ and EXT make objects too.
  for (const char* opcode : {"(ios\nsystem\n", "(cos\nsystem\no", "\x82\x01"})
    EXPECT_TRUE(says(refusal(dict_of(PickleBytes().raw(opcode))), "opcode", "nothing was run"));
}

TEST_F(TorchFileTest, RefusesTensorsThatLieOutsideTheirStorage) {
  const int64_t huge = INT64_MAX / 2;
  for (const std::string& message :
       {tensor_refusal("FloatStorage", 6, 0, {7}, {1}),
        tensor_refusal("FloatStorage", 6, 5, {2}, {1}),
        tensor_refusal("FloatStorage", 6, 0, {2}, {huge}),
        tensor_refusal("FloatStorage", 6, huge, {1}, {1}),
        tensor_refusal("FloatStorage", 6, 0, {huge, huge, huge}, {0, 0, 0}),
        tensor_refusal("FloatStorage", 6, 0, {100}, {0})})
    EXPECT_TRUE(says(message, "\"x\"", "outside its storage of 6 elements")) << message;
  const std::string negative = tensor_refusal("FloatStorage", 6, -1, {1}, {1});
  EXPECT_TRUE(says(negative, "\"x\"", "no whole number")) << negative;
  const std::string strides = tensor_refusal("FloatStorage", 6, 0, {2, 3}, {1});
  EXPECT_TRUE(says(strides, "2 sizes and 1 strides")) << strides;
}

TEST_F(TorchFileTest, RefusesAStorageOfAnotherSizeOrType) {
  const std::string longer = tensor_refusal("FloatStorage", 7, 0, {1}, {1});
  EXPECT_TRUE(says(longer, "7 numbers of F32", "archive/data/0", "24 bytes")) << longer;
  const std::string wider = tensor_refusal("DoubleStorage", 6, 0, {1}, {1});
  EXPECT_TRUE(says(wider, "6 numbers of F64", "24 bytes")) << wider;
  const std::string overflow = tensor_refusal("FloatStorage", INT64_MAX / 2, 0, {1}, {1});
  EXPECT_TRUE(says(overflow, "24 bytes")) << overflow;
  const std::string other = tensor_refusal("QInt8Storage", 24, 0, {1}, {1});
  EXPECT_TRUE(says(other, "torch.QInt8Storage", "not read")) << other;
}

TEST_F(TorchFileTest, RefusesAStorageThatIsMissing) {
  std::string pickle = dict_of(PickleBytes().tensor("FloatStorage", 6, 0, {6}, {1}));
  const std::string key(
      "X\1\0\0\0"
      "0",
      6);
  pickle.replace(pickle.find(key), key.size(),
                 std::string("X\1\0\0\0"
                             "9",
                             6));
  const std::string message = refusal(pickle);
  EXPECT_TRUE(says(message, "archive/data/9", "missing")) << message;
}

TEST_F(TorchFileTest, RefusesTwoTensorsOfOneName) {
  const std::string tensor = PickleBytes().tensor("FloatStorage", 6, 0, {6}, {1}).bytes().substr(2);
  const std::string message = refusal(
      PickleBytes().raw("}(").string("x").raw(tensor).string("x").raw(tensor).raw("u.").bytes());
  EXPECT_TRUE(says(message, "\"x\"", "twice")) << message;
}

TEST_F(TorchFileTest, RefusesPicklesThatAreNoStateDict) {
  EXPECT_TRUE(says(refusal("\x80\x02K\1."), "no dict"));
  EXPECT_TRUE(says(refusal("\x80\x02}."), "no tensors", "state_dict"));
  EXPECT_TRUE(says(refusal(""), "cut short"));
  EXPECT_TRUE(says(refusal("\x80\x02}"), "cut short"));
  EXPECT_TRUE(says(refusal("\x80\x02."), "none"));
  EXPECT_TRUE(says(refusal("\x80\x02u."), "mark"));
  EXPECT_TRUE(says(refusal(std::string("\x80\x02X\xff\xff\xff\x7f", 7)), "cut short"));
  EXPECT_TRUE(says(refusal("\x80\x02h\x05."), "recalls value 5"));
  EXPECT_TRUE(says(refusal("\x80\x01}."), "protocol 1"));
}

TEST_F(TorchFileTest, ADictThatContainsItselfEnds) {
  // A script module that is its own part.
  PickleBytes self;
  self.global("__torch__", "M").raw(")\x81q").number(0, 1).raw("}").string("m").raw("h");
  self.number(0, 1).raw("sb.");
  const std::string path = folder_.path("self.pt");
  ZipWriter zip(path);
  zip.begin("a/data.pkl", std::ssize(self.bytes()));
  zip.write(self.bytes().data(), std::ssize(self.bytes()));
  zip.begin("a/constants.pkl", 0);
  zip.commit();
  const std::string message = error_message([&] { TorchFile file(path); });
  EXPECT_TRUE(says(message, path, "contain themselves")) << message;
}

TEST_F(TorchFileTest, APickleThatGrowsWithoutEndIsRefused) {
  // A tuple of 1,000 values copied by 2,000 calls of a few bytes each.
  PickleBytes bomb;
  bomb.global("torch", "Size").raw("(");
  for (int i = 0; i < 1000; ++i) bomb.raw("N");
  bomb.raw("tq").number(0, 1).raw("0q").number(1, 1);
  for (int i = 0; i < 2000; ++i) bomb.raw("h").number(1, 1).raw("h").number(0, 1).raw("R0");
  const std::string message = refusal(bomb.bytes());
  EXPECT_TRUE(says(message, "copies more than")) << message;
}

TEST_F(TorchFileTest, TellsTheOldFormatAndOtherFilesApart) {
  const auto message_of = [&](const std::string& bytes) {
    const std::string path = folder_.write("other.pt", bytes);
    return error_message([&] { TorchFile file(path); });
  };
  EXPECT_TRUE(says(message_of("\x80\x02\x8a\nl\xfc\x9c"), "before PyTorch 1.6", "torch.save",
                   "weights_only=True"));
  EXPECT_TRUE(says(message_of("GIF89a"), "no torch file"));
  EXPECT_TRUE(says(message_of(""), "empty"));
  EXPECT_TRUE(says(message_of("PK\3\4"), "cut short"));
}

TEST_F(TorchFileTest, EveryCutIsNoticed) {
  const std::string whole = file_bytes(reference_path("weights/state_dict.bin"));
  ASSERT_FALSE(whole.empty());
  for (size_t size = 0; size < whole.size(); size += 997) {
    const std::string path = folder_.write("cut.bin", whole.substr(0, size));
    const std::string message = error_message([&] { TorchFile file(path); });
    EXPECT_TRUE(says(message, path)) << size << ": " << message;
  }
}

TEST_F(TorchFileTest, DamagedDirectoriesAreRefused) {
  const std::string pickle = dict_of(PickleBytes().tensor("FloatStorage", 6, 0, {6}, {1}));
  const std::string whole = file_bytes(path_of(pickle));
  const size_t directory = whole.find("PK\1\2"), second = whole.find("PK\1\2", directory + 1);
  const auto message_with = [&](size_t place, std::string_view bytes) {
    std::string damaged = whole;
    damaged.replace(place, bytes.size(), bytes);
    const std::string path = folder_.write("damaged.pt", damaged);
    return error_message([&] { TorchFile file(path); });
  };
  // Sizes stand at 20 and 24 of an entry, the header's place at 42, the name at 46.
  const std::string larger = message_with(second + 20, std::string("\xff\xff\0\0\xff\xff\0\0", 8));
  EXPECT_TRUE(says(larger, "damaged archive", "does not fit")) << larger;
  const std::string other = message_with(second + 42, std::string(4, '\0'));
  EXPECT_TRUE(says(other, "damaged archive", "no member \"archive/data/0\"")) << other;
  const std::string far = message_with(second + 42, "\xff\xff\xff\x7f");
  EXPECT_TRUE(says(far, "damaged archive")) << far;
  const std::string sizes = message_with(second + 24, std::string("\1\0\0\0", 4));
  EXPECT_TRUE(says(sizes, "damaged archive")) << sizes;
  const std::string compressed = message_with(second + 10, "\x08");
  EXPECT_TRUE(says(compressed, "archive/data/0", "missing or compressed")) << compressed;
}

TEST_F(TorchFileTest, TwoMembersOfOneNameAreRefused) {
  const std::string path = folder_.path("twice.pt");
  ZipWriter zip(path);
  for (int i = 0; i < 2; ++i) zip.begin("a/data.pkl", 0);
  zip.commit();
  const std::string message = error_message([&] { TorchFile file(path); });
  EXPECT_TRUE(says(message, path, "two members", "a/data.pkl")) << message;
}

TEST(Halves, EveryHalfSurvivesTheWayThroughF32) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = from_half(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(from_half(to_half(value)))) << bits;
    } else {
      EXPECT_EQ(to_half(value), half) << bits;
    }
  }
}

TEST(Halves, RoundToTheNearestAndTiesToEven) {
  EXPECT_EQ(from_half(to_half(1.f + 0x1p-11f)), 1.f);
  EXPECT_EQ(from_half(to_half(1.f + 0x3p-11f)), 1.f + 0x1p-9f);
  EXPECT_EQ(from_half(to_half(65519.f)), 65504.f);
  EXPECT_TRUE(std::isinf(from_half(to_half(65520.f))));
  EXPECT_EQ(from_half(to_half(0x1p-25f)), 0.f);
  EXPECT_EQ(from_half(to_half(0x1.8p-24f)), 0x1p-23f);
}

}  // namespace
}  // namespace clip
