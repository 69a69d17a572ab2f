// The page's words, in English and Korean. The browser's language is followed until a person chooses.

import { preferences, prefer } from "./storage.js";

const WORDS = {
  en: {
    welcome: "Ask it something, then open any word",
    welcomeMore: "This GPT runs on this machine. Every token of an answer shows how likely it was, what else could have stood there, and what your settings did.",
    examples: ["Hello! Who are you?", "안녕하세요?", "Bonjour ! Que savez-vous faire ?", "What can you do?"],
    newChat: "New chat", conversations: "Conversations", untitled: "New chat", deleteChat: "Delete “{title}”", reallyDelete: "Delete this conversation? It is kept nowhere else.",
    menu: "Conversations", close: "Close", cancel: "Cancel", delete: "Delete",
    message: "Message", placeholder: "Write a message", send: "Send", stop: "Stop", attach: "Attach a picture", noPictures: "This model reads text only", picture: "picture", drawnPicture: "a picture drawn by the model", removePicture: "Remove the picture", pictureTooLarge: "That picture is too large (more than 6 MB).",
    user: "You", assistant: "Malmoi", systemRole: "System", writing: "writing", emptyAnswer: "(an empty answer)", finished: "Answer finished.", stopped: "Stopped.",
    copy: "Copy", copied: "Copied.", copyCode: "Copy the code", code: "code", edit: "Edit", again: "Answer again", openWords: "Open the words of this answer", keep: "Go on with this one",
    previousBranch: "Previous version", nextBranch: "Next version", branches: "Versions of this message", answerOf: "Answer {place} of {all}", sideBySide: "Answers side by side",
    tokens: "{count} tokens", rate: "{rate} tokens/s", cutShort: "cut at the longest length", stoppedByYou: "stopped",
    heat: "Colour words by surprise", heatLegend: "Surprise in bits", settings: "Settings", parameters: "Parameters", export: "Export", exportJson: "JSON: everything, traces included", exportMarkdown: "Markdown: to be read",
    toLight: "Light colours", toDark: "Dark colours", toLanguage: "한국어로 보기", languageName: "한국어",
    word: "The word, opened", previousWord: "Previous token", nextWord: "Next token", wordOf: "token {place} of {all}", byHand: "You chose this token; the answer went on from it.",
    probability: "Probability", probabilityHint: "as the model itself saw it", rank: "Rank", rankHint: "1 is its first choice", surprise: "Surprise", surpriseHint: "1 bit is a coin toss", entropy: "Entropy", entropyHint: "as unsure as among {count} equal choices", bits: "{bits} bits",
    milliseconds: "{count} ms for this token", joules: "about {count} J (estimated)",
    alternatives: "What else could have stood here", alternativesHint: "Choose another token, and the answer goes on from there as a new version.", alternative: "{text}: {before} before the settings, {after} after", chosen: "Chosen.", goOn: "Go on with this one.", token: "token", before: "model", after: "settings",
    whatSettingsDid: "What each setting did", settingsHint: "All probability is one bar. Each setting reshaped it in turn; the grey rest is all other tokens.", noSetting: "No setting acted here: the token was drawn from what the model said.", modelAlone: "The model alone", moved: "moved {share}",
    layers: "Attention and layers", layersHint: "Where each head looked when this token was chosen, and what each layer would have said in its place.", lookInside: "Look inside", looking: "Looking inside … the first time, the model is opened for it.", lens: "What each layer would have said", lensHint: "The last layer is on top. A guess ripens from below; the chosen token is framed.", layer: "Layer", embedding: "in", wouldSay: "likeliest tokens", rankOf: "rank of {text}",
    attention: "Where the heads looked", attentionHint: "A row is a layer; its first cell is the mean of all heads, then each head. Darker cells look at few tokens, paler ones at many.", head: "head {head}", allHeads: "all heads", looksAt: "Layer {layer}, {head}: most at “{text}” ({share}).",
    system: "Who the model should be", systemPlaceholder: "A system message, for example: You are brief.", preview: "The very next token", previewHint: "It follows the sliders. The thin bar is the model alone, the full one after your settings.", previewAfter: "after “{text}”", previewAt: "after “…{text}”", why: "Why:", try: "Try:", reset: "Back to the model's own", resetAll: "All back to the model's own", untilFull: "until it ends",
    "placeholder.seed": "drawn anew each time", "placeholder.stop": "words that end an answer, comma between",
    "setting.temperature": "Temperature", "setting.top_k": "Top-k", "setting.top_p": "Top-p", "setting.min_p": "Min-p", "setting.repetition_penalty": "Repetition penalty", "setting.presence_penalty": "Presence penalty", "setting.frequency_penalty": "Frequency penalty", "setting.max_completion_tokens": "Longest answer", "setting.n": "Answers side by side", "setting.seed": "Seed", "setting.stop": "Stop words", "setting.constraint": "Form (constraint)", "setting.logit_bias": "Logit bias", "setting.min_new_tokens": "Shortest answer", "setting.no_repeat_ngram_size": "No repeated n-grams",
    backToChat: "Back to the conversation", parametersOf: "The parameters of {model}", parametersLead: "{total} learned numbers ({size} in 32 bits), and everything else that people call a parameter.", engineIs: "Engine: {engine}. Model hash: {hash}.",
    learnedTitle: "Learned", learnedHint: "The numbers that training set. Nobody wrote them; gradient descent did.", treeTitle: "Every tensor", tied: "lm_head.weight is model.embed_tokens.weight itself (tied) and counts once.", everyLayer: "each of {count} layers",
    "kind.positional": "places", "kind.attention": "attention", "kind.feed_forward": "feed-forward", "kind.expert": "experts and routers", "kind.norm": "norms", "kind.embedding": "token embedding", "kind.head": "output table",
    placesTitle: "Positional", "placesHint.rotary": "How the model knows where a token stands. Pairs of numbers turn like clock hands as the text goes on; two places are compared by the angle between them. Nothing is learned for it.", "placesHint.learned": "How the model knows where a token stands: a learned table with one vector for each place.", placesKind: "Kind", "places.rotary": "rotary", "places.learned": "learned table", placesCount: "Longest text (tokens)", pairsTurning: "Pairs that come round at least once", placesLearned: "Learned numbers", likeness: "likeness", likenessLabel: "How alike two places look, by the distance between them", distance: "distance in tokens",
    hyperTitle: "Hyperparameters", hyperHint: "What was chosen for training, before it began. From: {from}.", lossTrain: "training loss", lossValidation: "held-out loss", lossLabel: "The loss over the steps of training; at step {step} it was {loss}", steps: "steps", loss: "nats per token", noCurve: "No run lies beside this model, so its loss curve is not known.", noRecipe: "No recipe lies beside this model.",
    configurationTitle: "Configuration", configurationHint: "What was chosen for the network and for how it speaks.", generationTitle: "How it speaks by default",
    keyTitle: "This server wants a key", keyLabel: "API key", keyHint: "It is kept until this tab is closed.", unreachable: "The server cannot be reached. Is it still running?", failed: "Something went wrong: {message}", skip: "Skip to the message field",
  },
  ko: {
    welcome: "물어보고, 아무 낱말이나 열어 보세요",
    welcomeMore: "이 GPT는 이 컴퓨터에서 돌아가요. 답의 토큰마다 얼마나 그럴듯했는지, 그 자리에 무엇이 올 수 있었는지, 설정이 무엇을 바꿨는지 볼 수 있어요.",
    examples: ["안녕하세요?", "Hello! Who are you?", "무엇을 할 수 있어요?", "Bonjour ! Que savez-vous faire ?"],
    newChat: "새 대화", conversations: "대화", untitled: "새 대화", deleteChat: "‘{title}’ 지우기", reallyDelete: "이 대화를 지울까요? 다른 곳에는 남아 있지 않아요.",
    menu: "대화 목록", close: "닫기", cancel: "취소", delete: "지우기",
    message: "메시지", placeholder: "메시지를 쓰세요", send: "보내기", stop: "멈추기", attach: "그림 붙이기", noPictures: "이 모델은 글만 읽어요", picture: "그림", drawnPicture: "모델이 그린 그림", removePicture: "그림 빼기", pictureTooLarge: "그림이 너무 커요(6MB 초과).",
    user: "나", assistant: "말모이", systemRole: "시스템", writing: "쓰는 중", emptyAnswer: "(빈 답)", finished: "답이 끝났어요.", stopped: "멈췄어요.",
    copy: "복사", copied: "복사했어요.", copyCode: "코드 복사", code: "코드", edit: "고치기", again: "다시 답하기", openWords: "이 답의 낱말 열어 보기", keep: "이 답으로 계속하기",
    previousBranch: "이전 판", nextBranch: "다음 판", branches: "이 메시지의 판", answerOf: "답 {place}/{all}", sideBySide: "나란히 놓은 답",
    tokens: "토큰 {count}개", rate: "초당 {rate}토큰", cutShort: "최대 길이에서 끊김", stoppedByYou: "멈춤",
    heat: "놀라움으로 낱말 색칠하기", heatLegend: "놀라움(비트)", settings: "설정", parameters: "매개변수", export: "내보내기", exportJson: "JSON: 추적까지 모두", exportMarkdown: "Markdown: 읽기 좋게",
    toLight: "밝은 화면", toDark: "어두운 화면", toLanguage: "View in English", languageName: "English",
    word: "낱말 열어 보기", previousWord: "이전 토큰", nextWord: "다음 토큰", wordOf: "토큰 {place}/{all}", byHand: "직접 고른 토큰이에요. 답은 여기서부터 이어졌어요.",
    probability: "확률", probabilityHint: "모델이 스스로 본 값", rank: "순위", rankHint: "1이면 첫째 선택", surprise: "놀라움", surpriseHint: "1비트는 동전 던지기", entropy: "엔트로피", entropyHint: "똑같은 선택지 {count}개 앞에서만큼 망설임", bits: "{bits}비트",
    milliseconds: "이 토큰에 {count}ms", joules: "약 {count}J(추정)",
    alternatives: "이 자리에 올 수 있던 것", alternativesHint: "다른 토큰을 고르면 거기서부터 새 판으로 답이 이어져요.", alternative: "{text}: 설정 전 {before}, 설정 후 {after}", chosen: "고른 토큰이에요.", goOn: "이 토큰으로 이어가기.", token: "토큰", before: "모델", after: "설정 후",
    whatSettingsDid: "설정마다 한 일", settingsHint: "막대 하나가 확률 전체예요. 설정이 차례로 모양을 바꿨고, 회색은 나머지 토큰 모두예요.", noSetting: "여기서는 아무 설정도 작동하지 않았어요. 모델이 말한 그대로 뽑았어요.", modelAlone: "모델 그대로", moved: "{share} 옮김",
    layers: "어텐션과 층", layersHint: "이 토큰을 고를 때 헤드마다 어디를 봤는지, 층마다 그 자리에 무엇을 말했을지 보여 줘요.", lookInside: "안을 들여다보기", looking: "들여다보는 중이에요… 처음에는 모델을 여느라 시간이 걸려요.", lens: "층마다 말했을 것", lensHint: "맨 위가 마지막 층이에요. 아래에서 위로 갈수록 추측이 익고, 고른 토큰에는 테두리가 있어요.", layer: "층", embedding: "입력", wouldSay: "가장 그럴듯한 토큰", rankOf: "{text}의 순위",
    attention: "헤드가 본 곳", attentionHint: "한 줄이 한 층이에요. 첫 칸은 모든 헤드의 평균, 그다음은 헤드 하나씩이에요. 진할수록 적은 토큰에 집중하고 옅을수록 널리 봐요.", head: "헤드 {head}", allHeads: "모든 헤드", looksAt: "{layer}층, {head}: ‘{text}’를 가장 많이 봤어요({share}).",
    system: "모델이 어떤 존재여야 하나요", systemPlaceholder: "시스템 메시지. 예: 짧게 답하세요.", preview: "바로 다음 토큰", previewHint: "슬라이더를 따라 움직여요. 가는 막대는 모델 그대로, 굵은 막대는 설정을 거친 값이에요.", previewAfter: "‘{text}’ 다음", previewAt: "‘…{text}’ 다음", why: "까닭:", try: "해 볼 것:", reset: "모델의 값으로", resetAll: "모두 모델의 값으로", untilFull: "끝날 때까지",
    "placeholder.seed": "매번 새로 뽑아요", "placeholder.stop": "답을 끝내는 말, 쉼표로 나눠요",
    "setting.temperature": "온도", "setting.top_k": "Top-k", "setting.top_p": "Top-p", "setting.min_p": "Min-p", "setting.repetition_penalty": "반복 벌점", "setting.presence_penalty": "등장 벌점", "setting.frequency_penalty": "빈도 벌점", "setting.max_completion_tokens": "가장 긴 답", "setting.n": "나란히 받을 답의 수", "setting.seed": "시드", "setting.stop": "멈춤 말", "setting.constraint": "형식(제약)", "setting.logit_bias": "로짓 편향", "setting.min_new_tokens": "가장 짧은 답", "setting.no_repeat_ngram_size": "n-그램 반복 금지",
    backToChat: "대화로 돌아가기", parametersOf: "{model}의 매개변수", parametersLead: "학습된 수 {total}개(32비트로 {size}), 그리고 사람들이 매개변수라고 부르는 나머지 모두예요.", engineIs: "엔진: {engine}. 모델 해시: {hash}.",
    learnedTitle: "학습되는 값", learnedHint: "학습이 정한 수예요. 사람이 쓴 것이 아니라 경사 하강이 찾았어요.", treeTitle: "모든 텐서", tied: "lm_head.weight는 model.embed_tokens.weight와 같은 표(공유)라서 한 번만 세요.", everyLayer: "{count}개 층마다",
    "kind.positional": "자리", "kind.attention": "어텐션", "kind.feed_forward": "피드포워드", "kind.expert": "전문가와 라우터", "kind.norm": "정규화", "kind.embedding": "토큰 임베딩", "kind.head": "출력 표",
    placesTitle: "위치", "placesHint.rotary": "토큰이 어디에 있는지 모델이 아는 방법이에요. 글이 나아갈수록 숫자 쌍이 시곗바늘처럼 돌고, 두 자리는 그 각도 차이로 견줘요. 학습하는 값은 없어요.", "placesHint.learned": "토큰이 어디에 있는지 모델이 아는 방법이에요. 자리마다 벡터 하나를 가진 학습된 표예요.", placesKind: "종류", "places.rotary": "회전", "places.learned": "학습된 표", placesCount: "가장 긴 글(토큰)", pairsTurning: "적어도 한 바퀴 도는 쌍", placesLearned: "학습되는 수", likeness: "닮은 정도", likenessLabel: "거리에 따라 두 자리가 얼마나 닮아 보이는지", distance: "거리(토큰)",
    hyperTitle: "하이퍼파라미터", hyperHint: "학습을 시작하기 전에 고른 값이에요. 출처: {from}.", lossTrain: "학습 손실", lossValidation: "따로 둔 글의 손실", lossLabel: "학습 걸음에 따른 손실. {step}걸음에서 {loss}", steps: "걸음", loss: "토큰당 나트", noCurve: "이 모델 곁에 학습 기록이 없어서 손실 곡선을 알 수 없어요.", noRecipe: "이 모델 곁에 레시피가 없어요.",
    configurationTitle: "구성", configurationHint: "네트워크와 말하는 방식을 위해 고른 값이에요.", generationTitle: "기본으로 말하는 방식",
    keyTitle: "이 서버에는 키가 필요해요", keyLabel: "API 키", keyHint: "이 탭을 닫을 때까지만 간직해요.", unreachable: "서버에 닿지 않아요. 아직 돌고 있나요?", failed: "문제가 생겼어요: {message}", skip: "메시지 칸으로 가기",
  },
};

let current = preferences().language ?? (navigator.languages.find((each) => /^(ko|en)\b/.test(each))?.slice(0, 2) ?? "en");
document.documentElement.lang = current;

export const language = () => current;

export function setLanguage(chosen) {
  current = chosen;
  document.documentElement.lang = chosen;
  prefer({ language: chosen });
}

/** The words for `key`, with `{name}` filled in. */
export function t(key, values = {}) {
  const words = WORDS[current][key] ?? WORDS.en[key] ?? key;
  if (typeof words !== "string") return words;
  return words.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** A setting's name for people; the API's own where we have no word. */
export function settingName(name) {
  const key = `setting.${name}`;
  return key in WORDS[current] ? t(key) : name;
}

/** 3.000.000 as this language writes it; small numbers as they are. */
export function number(value) {
  if (!Number.isFinite(value)) return String(value);
  return Number.isInteger(value) ? value.toLocaleString(current) : String(+value.toPrecision(6));
}
