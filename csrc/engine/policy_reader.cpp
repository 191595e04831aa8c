// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <unordered_set>

#include "engine/graph_reader.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxInput = static_cast<std::int64_t>(kMaxBlockBytes / sizeof(float));  // elements
constexpr std::size_t kMaxCameras = 64;
constexpr std::string_view kTask = "{task}";
constexpr Named<bool> kStarts[] = {{true, "images"}, {false, "latents"}};

std::size_t find_tensor(const ObjectReader& reader, const std::string& key, const TensorIndex& tensors) {
    const std::string& name = reader.string(key);
    const auto found = tensors.find(name);
    if (found == tensors.end()) reader.fail("'" + key + "' names the tensor '" + name + "', which is not there");
    return found->second;
}

CameraInfo read_camera(const ObjectReader& reader, const PolicyDescription& policy) {
    CameraInfo camera;
    camera.name = reader.string("name");
    if (camera.name.empty()) reader.fail("'name' is empty");
    camera.rotate_180 = reader.boolean("rotate_180");
    const std::vector<std::int64_t> rect = reader.integers("rect");
    if (rect.size() != 4) reader.fail("'rect' must be [top, left, height, width]");
    for (const std::int64_t number : rect)
        if (number < 0 || number > kMaxSize) reader.fail("'rect' holds " + std::to_string(number));
    camera.top = rect[0];
    camera.left = rect[1];
    camera.height = rect[2];
    camera.width = rect[3];
    if (camera.height < 1 || camera.width < 1 || camera.top + camera.height > policy.canvas_height ||
        camera.left + camera.width > policy.canvas_width)
        reader.fail("rectangle " + shape_text(rect) + " is empty or outside the canvas " +
                    shape_text({policy.canvas_height, policy.canvas_width}));
    return camera;
}

bool overlap(const CameraInfo& a, const CameraInfo& b) {
    return a.top < b.top + b.height && b.top < a.top + a.height && a.left < b.left + b.width &&
           b.left < a.left + a.width;
}

void read_cameras(const ObjectReader& json, PolicyDescription& policy) {
    const JsonValue::Array& items = json.list("cameras");
    if (items.size() > kMaxCameras) json.fail("more than " + std::to_string(kMaxCameras) + " cameras");
    std::int64_t area = 0;
    for (const JsonValue& item : items) {
        const ObjectReader reader(item, "policy: camera " + std::to_string(policy.cameras.size()));
        CameraInfo camera = read_camera(reader, policy);
        for (const CameraInfo& other : policy.cameras) {
            if (other.name == camera.name) reader.fail("the name '" + camera.name + "' is there twice");
            if (overlap(other, camera))
                fail(reader.where() + " '" + camera.name + "' overlaps camera '" + other.name + "'");
        }
        area += camera.height * camera.width;
        policy.cameras.push_back(std::move(camera));
    }
    if (area != policy.canvas_height * policy.canvas_width)
        json.fail("the cameras cover " + std::to_string(area) + " pixels of the canvas; expected all " +
                  std::to_string(policy.canvas_height * policy.canvas_width));
}

void read_start(const ObjectReader& json, PolicyDescription& policy) {
    policy.starts_at_images = json.one_of("starts_at", kStarts);
    const JsonValue& canvas = json.member("canvas");
    if (!policy.starts_at_images) {
        if (!canvas.is_null()) json.fail("'canvas' is " + std::string(canvas.type_name()) + "; expected null");
        if (!json.list("cameras").empty()) json.fail("'cameras' is not empty, but the engine starts at latents");
        return;
    }
    const std::vector<std::int64_t> size = json.integers("canvas");
    if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > kMaxSize || size[1] > kMaxSize)
        json.fail("'canvas' must be [height, width], 1 to " + std::to_string(kMaxSize) + " each");
    policy.canvas_height = size[0];
    policy.canvas_width = size[1];
    read_cameras(json, policy);
}

// The rows of a tensor that holds context rows.
std::int64_t context_rows(const Graph& graph, std::size_t index, const ObjectReader& reader) {
    const Tensor& tensor = graph.tensors[index];
    const std::string text = "tensor '" + tensor.name + "' ";
    if (tensor.shape.size() != 2 || tensor.shape[1] != graph.policy.text_width)
        reader.fail(text + "has shape " + shape_text(tensor.shape) + "; expected [rows, " +
                    std::to_string(graph.policy.text_width) + "]");
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16)
        reader.fail(text + "is " + dtype_name(tensor.dtype) + "; expected f32 or bf16");
    return tensor.shape[0];
}

double finite_number(const ObjectReader& reader, const JsonValue& value) {
    const JsonValue::Number* number = value.number();
    if (number == nullptr || !std::isfinite(number->value))
        reader.fail("'range' holds " + std::string(value.type_name()) + "; expected two finite numbers");
    return number->value;
}

DimensionInfo read_dimension(const ObjectReader& reader) {
    DimensionInfo dimension;
    dimension.name = reader.string("name");
    dimension.unit = reader.string("unit");
    if (dimension.name.empty() || dimension.unit.empty()) reader.fail("'name' or 'unit' is empty");
    if (reader.member("range").is_null()) return dimension;
    const JsonValue::Array& range = reader.list("range");
    if (range.size() != 2) reader.fail("'range' must be [minimum, maximum] or null");
    dimension.has_range = true;
    dimension.minimum = finite_number(reader, range[0]);
    dimension.maximum = finite_number(reader, range[1]);
    if (dimension.minimum > dimension.maximum) reader.fail("'range' falls");
    return dimension;
}

// The numbers of a state or an action; none where an engine leaves them out.
std::vector<DimensionInfo> read_dimensions(const ObjectReader& json, const char* key, std::int64_t width) {
    std::vector<DimensionInfo> dimensions;
    if (const JsonValue* found = json.find(key); found == nullptr || found->is_null()) return dimensions;
    for (const JsonValue& item : json.list(key))
        dimensions.push_back(read_dimension(
            ObjectReader(item, "policy: " + std::string(key) + " " + std::to_string(dimensions.size()))));
    if (static_cast<std::int64_t>(dimensions.size()) != width)
        json.fail("'" + std::string(key) + "' has " + std::to_string(dimensions.size()) + " entries; expected " +
                  std::to_string(width));
    return dimensions;
}

std::vector<std::string> read_words(const ObjectReader& encoder) {
    std::vector<std::string> words;
    if (const JsonValue* found = encoder.find("words"); found == nullptr || found->is_null()) return words;
    for (const JsonValue& item : encoder.list("words")) {
        if (item.string() == nullptr || item.string()->empty())
            encoder.fail("'words' holds " + std::string(item.type_name()) + "; expected words");
        words.push_back(*item.string());
    }
    return words;
}

void read_text_encoder(const ObjectReader& json, const TensorIndex& tensors, Graph& graph) {
    const JsonValue& encoder = json.member("text_encoder");
    if (encoder.is_null()) return;
    if (encoder.object() == nullptr)
        fail("policy: text_encoder is " + std::string(encoder.type_name()) + "; expected an object or null");
    const ObjectReader reader(encoder, "policy: text_encoder");
    const std::string& kind = reader.string("kind");
    if (kind != "hashed_words") reader.fail("kind '" + kind + "' is unknown; expected hashed_words");
    TextEncoder& result = graph.policy.text_encoder;
    result.present = true;
    result.embedding = find_tensor(reader, "embedding", tensors);
    result.position = find_tensor(reader, "position", tensors);
    result.words = read_words(reader);
    context_rows(graph, result.embedding, reader);
    const std::int64_t rows = context_rows(graph, result.position, reader);
    if (rows != graph.policy.context_rows)
        reader.fail("'position' has " + std::to_string(rows) + " rows; expected " +
                    std::to_string(graph.policy.context_rows));
}

void read_instructions(const ObjectReader& json, const TensorIndex& tensors, Graph& graph) {
    std::unordered_set<std::string_view> texts;
    for (const JsonValue& item : json.list("instructions")) {
        const ObjectReader reader(item, "policy: instruction " + std::to_string(graph.policy.instructions.size()));
        const std::string& text = reader.string("text");
        if (text.empty()) reader.fail("'text' is empty");
        if (!texts.insert(text).second) reader.fail("the text '" + text + "' is there twice");
        const std::size_t context = find_tensor(reader, "context", tensors);
        if (const std::int64_t rows = context_rows(graph, context, reader); rows > graph.policy.context_rows)
            reader.fail("has " + std::to_string(rows) + " rows; expected at most " +
                        std::to_string(graph.policy.context_rows));
        graph.policy.instructions.push_back({text, context});
    }
}

// Not used here, but by those who drive a robot.
void check_control_rate(const ObjectReader& json) {
    const JsonValue* rate = json.find("control_hz");
    if (rate == nullptr || rate->is_null()) return;
    const JsonValue::Number* number = rate->number();
    if (number == nullptr || !(number->value > 0))
        json.fail("'control_hz' is " + (number == nullptr ? rate->type_name() : std::to_string(number->value)) +
                  "; expected a positive number or null");
}

}  // namespace

void read_policy(const ObjectReader& document, const TensorIndex& tensors, Graph& graph) {
    const ObjectReader json = document.object("policy", "policy");
    PolicyDescription& policy = graph.policy;
    const auto size = [&](const char* key) { return json.integer(key, 1, kMaxSize); };
    policy.state_width = size("state_width");
    policy.action_width = size("action_width");
    policy.horizon = size("horizon");
    policy.replan_steps = json.integer("replan", 1, policy.horizon);
    policy.context_rows = size("context_rows");
    policy.text_width = size("text_width");
    policy.prompt_template = json.string("prompt_template");
    const std::size_t task = policy.prompt_template.find(kTask);
    if (task == std::string::npos || policy.prompt_template.find(kTask, task + 1) != std::string::npos)
        json.fail("'prompt_template' is '" + policy.prompt_template + "'; expected a text with {task} in it once");
    const Shape latent = json.integers("latent_shape");
    if (latent.size() != 3 || element_count(latent) < 0) json.fail("'latent_shape' must be [channels, height, width]");
    for (std::size_t i = 0; i < 3; ++i) policy.latent_shape[i] = latent[i];
    if (policy.latent_count() > kMaxInput) json.fail("'latent_shape' has more than 2^32 elements");
    if (policy.context_rows * policy.text_width > kMaxInput)
        json.fail("'context_rows' times 'text_width' is more than 2^32");
    check_control_rate(json);
    policy.state = read_dimensions(json, "state", policy.state_width);
    policy.action = read_dimensions(json, "action", policy.action_width);
    read_start(json, policy);
    read_text_encoder(json, tensors, graph);
    read_instructions(json, tensors, graph);
}

}  // namespace lightwam::engine
