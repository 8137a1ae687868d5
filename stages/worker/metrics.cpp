// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/metrics.h"

#include <nlohmann/json.hpp>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "kernels/core/error.h"
#include "schemas/schemas.h"
#include "stages/shared/io/clock.h"

namespace braise::worker {

struct Metrics::Schema {
  valijson::Schema schema;
};

Metrics::Metrics(const std::filesystem::path& path) : schema_(std::make_unique<Schema>()), file_(path) {
  // The time is put in here, and right: looking at it would take the validator most of a line's time.
  nlohmann::json schema = schemas::schema("metrics.schema.json");
  schema.erase("required");
  const valijson::adapters::NlohmannJsonAdapter adapter(schema);
  valijson::SchemaParser().populateSchema(adapter, schema_->schema);
}

Metrics::~Metrics() = default;

void Metrics::append(nlohmann::json values) {
  const valijson::adapters::NlohmannJsonAdapter adapter(values);
  valijson::ValidationResults results;
  if (!valijson::Validator().validate(schema_->schema, adapter, &results)) {
    valijson::ValidationResults::Error error;
    results.popError(error);
    throw core::Error("metrics " + values.dump() + " are not as metrics.schema.json says: " + error.description);
  }
  values["time"] = io::format_utc(io::utc_us());
  file_.append(values, false);
}

}  // namespace braise::worker
