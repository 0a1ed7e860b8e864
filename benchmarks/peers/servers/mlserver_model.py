"""MLServer: a custom runtime behind the Open Inference Protocol."""

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.tagger import Tagger


class TagModel(MLModel):
    async def load(self) -> bool:
        self.tagger = Tagger()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = Base64Codec.decode_input(payload.inputs[0])
        answers = [self.tagger(image).model_dump_json() for image in images]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("tags", answers)]
        )
