// tests/check_layers.sh on a small tree with one fault planted at a time.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/run_command.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

class CheckLayers : public testing::Test {
 protected:
  CheckLayers() {
    tree_.write("engine/check.h", "#pragma once\n#define CLIP_CHECK(condition) (condition)\n");
    tree_.write("engine/scalar_math.h",
                "#if defined(__CUDACC__)\n#define CLIP_HOST_DEVICE __host__\n#else\n"
                "#define CLIP_HOST_DEVICE\n#endif\n");
    tree_.write("autograd/ops.h",
                "#include \"engine/check.h\"\n"
                "/// mentions forgotten(x)\n"
                "Variable linear(const Variable& x, const Variable& weight,\n"
                "                const Variable& bias = {});\n"
                "Variable attention(const Variable& qkv);\n"
                "Variable attention(const Variable& q, const Variable& kv);\n");
    tree_.write("models/clip.h", "#include \"autograd/ops.h\"\n");
    tree_.write("cuda/no_cuda.cpp", "#include \"engine/check.h\"\n");
    tree_.write("apps/train.cpp", "#include <vector>\n#include \"models/clip.h\"\n");
    tree_.write(
        "tests/op_cases.cpp",
        "#include \"models/clip.h\"\nlinear(in[0]); attention(in[0]); attention(in[0], in[1]);\n");
  }

  CommandResult check() const {
    return run_command(script_path("check_layers.sh") + " '" + tree_.path() + "'");
  }

  void expect_breach(const std::string& where_and_what) const {
    const CommandResult result = check();
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.output.find(where_and_what), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("\ncheck-layers: 1 breach(es)\n"), std::string::npos)
        << result.output;
  }

  ScratchFolder tree_;
};

TEST_F(CheckLayers, AcceptsATreeThatKeepsToTheLayers) {
  const CommandResult result = check();
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST_F(CheckLayers, FindsEngineIncludingAutograd) {
  tree_.write("engine/types.h", "#pragma once\n\n#include \"autograd/ops.h\"\n");
  expect_breach("engine/types.h:3: engine/ must not include autograd/");
}

TEST_F(CheckLayers, FindsModelsIncludingApps) {
  tree_.write("models/clip.cpp", "  #  include \"apps/options.h\"\n");
  expect_breach("models/clip.cpp:1: models/ must not include apps/");
}

TEST_F(CheckLayers, FindsAnyoneIncludingCuda) {
  tree_.write("apps/train.cpp", "#include \"cuda/backend.cuh\"\n");
  expect_breach("apps/train.cpp:1: apps/ must not include cuda/");
}

TEST_F(CheckLayers, FindsProductCodeIncludingTests) {
  tree_.write("autograd/tape.cpp", "#include \"tests/op_cases.h\"\n");
  expect_breach("autograd/tape.cpp:1: autograd/ must not include tests/");
}

TEST_F(CheckLayers, AllowsTheBenchmarkOfOpsTheirCasesAlone) {
  tree_.write("apps/common/bench_ops.cpp", "#include \"tests/op_cases.h\"\n");
  const CommandResult result = check();
  EXPECT_EQ(result.status, 0) << result.output;
  tree_.write("apps/common/bench_ops.cpp", "#include \"tests/tiny_clip.h\"\n");
  expect_breach("apps/common/bench_ops.cpp:1: apps/ must not include tests/ (tests/tiny_clip.h)");
}

TEST_F(CheckLayers, AllowsTheCasesOfOpsToTheirBenchmarkAlone) {
  tree_.write("apps/common/bench_scale.cpp", "#include \"tests/op_cases.h\"\n");
  expect_breach("apps/common/bench_scale.cpp:1: apps/ must not include tests/ (tests/op_cases.h)");
}

TEST_F(CheckLayers, FindsIncludesThatAreNotWrittenFromTheRoot) {
  tree_.write("models/clip.cpp", "#include \"../engine/check.h\"\n");
  expect_breach(
      "models/clip.cpp:1: include of \"../engine/check.h\" must be written from the root");
}

TEST_F(CheckLayers, FindsProjectHeadersInAngleBrackets) {
  tree_.write("models/clip.cpp", "#include <engine/check.h>\n");
  expect_breach("models/clip.cpp:1: include of <engine/check.h> must use quotes");
}

TEST_F(CheckLayers, FindsAnOpWithoutACase) {
  tree_.write("autograd/ops.h",
              "Variable linear(const Variable& x);\nVariable bias_gelu(const Variable& x);\n");
  expect_breach("autograd/ops.h:2: bias_gelu is declared 1 time(s) and has 0 case(s)");
}

TEST_F(CheckLayers, DoesNotTakeACommentOrALongerNameForACase) {
  tree_.write("tests/op_cases.cpp",
              "// linear(x)\nmy_linear(in[0]); attention(in[0]); attention(in[0], in[1]);\n");
  expect_breach("autograd/ops.h:3: linear is declared 1 time(s) and has 0 case(s)");
}

TEST_F(CheckLayers, WantsACaseForEachOverload) {
  tree_.write("tests/op_cases.cpp", "linear(in[0]); attention(in[0]);\n");
  expect_breach("attention is declared 2 time(s) and has 1 case(s)");
}

TEST_F(CheckLayers, FindsConditionalCompilation) {
  tree_.write("engine/cpu/gelu.cpp", "int x;\n#ifdef __AVX512F__\n#endif\n");
  expect_breach("engine/cpu/gelu.cpp:2: conditional compilation");
}

TEST_F(CheckLayers, FindsAVersionTest) {
  tree_.write("engine/cpu/onednn.cpp", "#include <dnnl.h>\n#if DNNL_VERSION_MAJOR >= 3\n#endif\n");
  expect_breach("engine/cpu/onednn.cpp:2: conditional compilation");
}

TEST_F(CheckLayers, AllowsOneConditionOnly) {
  tree_.write("engine/scalar_math.h",
              "#if defined(__CUDACC__)\n#endif\n#if defined(__CUDACC__)\n#endif\n");
  expect_breach("engine/scalar_math.h:3: conditional compilation");
}

TEST_F(CheckLayers, FindsAThirdMacro) {
  tree_.write("models/image.cpp", "#define STB_IMAGE_IMPLEMENTATION\n");
  expect_breach("models/image.cpp:1: macro STB_IMAGE_IMPLEMENTATION");
}

TEST_F(CheckLayers, FailsWhereTheCasesAreMissing) {
  std::filesystem::remove(tree_.path("tests/op_cases.cpp"));
  expect_breach("tests/op_cases.cpp:1: not found");
}

}  // namespace
}  // namespace clip
