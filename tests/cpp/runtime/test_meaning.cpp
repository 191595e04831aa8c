// SPDX-License-Identifier: Apache-2.0
// Inputs of the right form and the wrong meaning: strides in which pixels overlap, frames whose first channel is blue,
// texts that look alike, states and words that training never saw.
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "expect.hpp"
#include "lightwam/policy.hpp"
#include "small_engine.hpp"

using namespace lightwam;
using namespace lightwam::test;

namespace {

struct Strides {
    std::int64_t row, column, channel;
};

PolicyOptions one_thread() {
    PolicyOptions options;
    options.threads = 1;
    return options;
}

Policy ready(const std::string& path, const PolicyOptions& options = one_thread()) {
    Policy policy(path, options);
    policy.set_instruction(kTask);
    return policy;
}

// The small observation with the engine's wrist camera seen through these strides, somewhere in a large enough block.
struct Seen {
    Seen(std::int64_t height, std::int64_t width, Strides strides) : small(height, width), block(1 << 16) {
        for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<std::uint8_t>(i * 29 + i / 256);
        small.images[0] = {"wrist",     block.data() + (1 << 15), height,         width,
                           strides.row, strides.column,           strides.channel};
    }
    SmallObservation small;
    std::vector<std::uint8_t> block;
};

void test_overlapping_strides(const std::string& path) {
    Policy policy = ready(path);
    const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
    for (const Strides strides : {Strides{0, 0, 0},
                                  {0, 3, 1},
                                  {30, 0, 1},
                                  {30, 3, 0},
                                  {30, 1, 1},
                                  {29, 3, 1},
                                  {30, 2, 1},
                                  {10, 1, 119},
                                  {-29, -3, -1},
                                  {30, -1, 1},
                                  {1, 1, 1},
                                  {huge, 3, 1},
                                  {-huge - 1, 3, 1},
                                  {30, huge, 1},
                                  {huge / 2, huge / 2, huge / 2}}) {
        const Seen seen(12, 10, strides);
        EXPECT(throws_with<Error>("camera 'wrist' has the strides " + std::to_string(strides.row) + ", ",
                                  [&] { infer(policy, seen.small.view()); }));
    }
    for (const Strides strides : {Strides{30, 3, 1},
                                  {-30, 3, 1},
                                  {30, -3, 1},
                                  {30, 3, -1},
                                  {-64, -6, -2},
                                  {10, 1, 120},
                                  {10, 1, -120},
                                  {3, 36, 1},
                                  {1, 12, 120},
                                  {40, 4, 1},
                                  {31, 3, 1}}) {
        const Seen seen(12, 10, strides);
        infer(policy, seen.small.view());
    }
    // A stride that is never stepped over may be anything.
    infer(policy, Seen(1, 10, {0, 3, 1}).small.view());
    infer(policy, Seen(12, 1, {3, 0, 1}).small.view());
    infer(policy, Seen(1, 1, {0, 0, 1}).small.view());
}

// The image's bytes packed, its first channel last.
std::vector<std::uint8_t> packed_reversed(const ImageView& image) {
    std::vector<std::uint8_t> packed;
    for (std::int64_t y = 0; y < image.height; ++y)
        for (std::int64_t x = 0; x < image.width; ++x)
            for (std::int64_t c = 2; c >= 0; --c)
                packed.push_back(
                    image.pixels[y * image.row_stride + x * image.column_stride + c * image.channel_stride]);
    return packed;
}

// BGR gives bit for bit what RGB gives of a packed copy with swapped channels, in any layout.
void test_color_order(const std::string& path, const std::string& instruction_set) {
    PolicyOptions options = one_thread();
    options.instruction_set = instruction_set;
    Policy rgb = ready(path, options);
    options.color_order = "bgr";
    Policy bgr = ready(path, options);
    for (const auto& [height, width] : {std::pair<std::int64_t, std::int64_t>{12, 10}, {70, 50}, {1, 1}, {8, 8}}) {
        const std::int64_t plane = height * width;
        for (const Strides strides : {Strides{3 * width, 3, 1},
                                      {-3 * width, 3, 1},
                                      {3 * width, 3, -1},
                                      {3 * width, -3, 1},
                                      {4 * width, 4, 1},
                                      {width, 1, plane},
                                      {-width, -1, -plane},
                                      {1, height, plane},
                                      {3, 3 * height, 1}}) {
            Seen seen(height, width, strides);
            const std::vector<float> straight = infer(bgr, seen.small.view());
            const std::vector<float> unswapped = infer(rgb, seen.small.view());
            EXPECT(straight != unswapped);
            std::vector<std::uint8_t> copies[2];
            for (int i = 0; i < 2; ++i) {
                copies[i] = packed_reversed(seen.small.images[i]);
                seen.small.images[i] = {seen.small.images[i].camera, copies[i].data(), height, width, 3 * width, 3, 1};
            }
            EXPECT(infer(rgb, seen.small.view()) == straight);
        }
    }
    options.color_order = "BGR";
    EXPECT(throws_with<Error>("color_order is 'BGR'; expected 'rgb' or 'bgr'", [&] { Policy(path, options); }));
}

void test_texts(const std::string& path, const std::string& known_only) {
    Policy policy = ready(path);
    EXPECT(policy.instruction_computations() == 1);
    for (const char* text : {" pick  up the soup\n", "pick\xC2\xA0up the soup", "\xEF\xBB\xBFpick up the soup",
                             "pick\xE2\x80\x8Bup the so\xC2\xADup",
                             "pi\x07"
                             "ck up the soup",
                             "pick up the\tsoup", "\xEF\xBD\x90ick up the soup"}) {  // a full-width p
        policy.set_instruction(text);
        EXPECT(policy.instruction() == text && policy.instruction_computations() == 1);
        Policy other(known_only, one_thread());
        other.set_instruction(text);
    }
    policy.set_instruction("cafe\xCC\x81");
    policy.set_instruction("caf\xC3\xA9");
    EXPECT(policy.instruction_computations() == 2);
    for (const char* text : {"pick \x80", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "soup\xE2\x80", "\xFF"})
        EXPECT(throws_with<Error>("not valid UTF-8: byte 0x", [&] { policy.set_instruction(text); }));
    EXPECT(throws_with<Error>("not valid UTF-8", [&] { policy.set_instruction(std::string("a\0\xFF", 3)); }));
    EXPECT(throws_with<Error>("holds no word", [&] { policy.set_instruction(" \xE2\x80\x8B \xEF\xBB\xBF"); }));
    EXPECT(policy.instruction() == "caf\xC3\xA9");
    const std::string long_text(100'000, 'x');
    policy.set_instruction(long_text);  // one word
    EXPECT(policy.instruction() == long_text);
}

// The small engine with a description of its state and the words of its encoder, and no more tensors or ops.
std::string described(const std::string& path) {
    std::string bytes = read_file(path);
    const std::string state = "\\\"state_width\\\": 5";
    const std::string encoder = "\\\"kind\\\": \\\"hashed_words\\\"";
    std::string numbers;
    for (const char* range : {"[-1, 1]", "[0, 0.5]", "[0.2, 0.2]", "null", "[-1e300, 1e300]"})
        numbers += std::string(numbers.empty() ? "" : ", ") +
                   "{\\\"name\\\": \\\"joint\\\", \\\"unit\\\": \\\"rad\\\", \\\"range\\\": " + range + "}";
    const auto insert = [&](const std::string& behind, const std::string& text) {
        const std::size_t at = bytes.find(behind);
        EXPECT(at != std::string::npos);
        bytes.insert(at + behind.size(), text);
    };
    insert(state, ", \\\"state\\\": [" + numbers + "]");
    insert(encoder, ", \\\"words\\\": [\\\"pick\\\", \\\"up\\\", \\\"the\\\", \\\"soup\\\", \\\"can\\\"]");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const std::uint64_t grown = length + bytes.size() - read_file(path).size();
    const std::string padding((64 - (grown + 8) % 64) % 64, ' ');
    bytes.insert(8 + grown, padding);
    length = grown + padding.size();
    std::memcpy(bytes.data(), &length, 8);
    const std::string made = "described.lwam";
    write_file(made, bytes);
    return made;
}

void test_unfamiliar(const std::string& plain) {
    const std::string path = described(plain);
    std::vector<std::string> told;
    PolicyOptions options = one_thread();
    options.on_warning = [&](const std::string& message) { told.push_back(message); };
    Policy policy = ready(path, options);
    EXPECT(policy.info().state.size() == 5 && policy.info().state[1].maximum == 0.5);
    EXPECT(!policy.info().state[3].has_range && policy.info().action.empty());
    SmallObservation seen;
    seen.state = {1.5F, -0.4F, 1.1F, 1e30F, 1e30F};  // near: by less than the width of the range, or than 1
    infer(policy, seen.view());
    EXPECT(told.empty());
    seen.state[0] = 57.3F;
    infer(policy, seen.view());
    infer(policy, seen.view());
    EXPECT(told.size() == 1 && told[0].find("state[0] (joint) is 57.3 rad, in training -1 to 1 rad") == 0);
    seen.state[2] = -2.0F;
    infer(policy, seen.view());
    EXPECT(told.size() == 2 && told[1].find("state[2]") == 0);
    policy.set_instruction("pick up the can");
    EXPECT(told.size() == 2);
    policy.set_instruction("fetch the can, fetch the tea");
    policy.set_instruction("fetch the soup");
    EXPECT(told.size() == 3 && told[2].find("never saw 'fetch', 'tea' in training") != std::string::npos);

    options.unfamiliar = "error";
    Policy strict = ready(path, options);
    for (int i = 0; i < 2; ++i)
        EXPECT(throws_with<Error>("state[0] (joint) is 57.3 rad", [&] { infer(strict, seen.view()); }));
    for (int i = 0; i < 2; ++i) EXPECT(throws_with<Error>("never saw 'tea'", [&] { strict.set_instruction("tea"); }));
    EXPECT(strict.instruction() == kTask && told.size() == 3);
    infer(strict, SmallObservation().view());

    options.unfamiliar = "ignore";
    Policy deaf = ready(path, options);
    infer(deaf, seen.view());
    deaf.set_instruction("tea");
    EXPECT(told.size() == 3);

    options.unfamiliar = "warn";
    options.on_warning = [](const std::string&) { throw Error(ErrorKind::internal, "stop"); };
    Policy stopping = ready(path, options);
    for (int i = 0; i < 2; ++i) EXPECT(throws_with<Error>("stop", [&] { infer(stopping, seen.view()); }));
    std::remove(path.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    const std::string folder = argv[1];
    const std::string images = folder + "/small_images.lwam";
    test_overlapping_strides(images);
    for (const char* level : {"portable", "auto"}) test_color_order(images, level);
    test_texts(images, folder + "/small_latents.lwam");
    test_unfamiliar(images);
    return finish();
}
