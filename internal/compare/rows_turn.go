package compare

import "github.com/sluice-go/sluice/agent"

// The names of what reads and writes turns.
const (
	turnOf       = "a turn of 8 calls: "
	parseRender  = "Parse and Render"
	plainStructs = "encoding/json, plain structs"
)

// sdk is a provider's own library.
type sdk struct {
	name   string
	format agent.Format
	do     turnFunc // with its types
	plain  turnFunc // with structs of no more fields than needed
	note   string
}

var sdks = []sdk{
	{"openai-go v3", agent.OpenAIChat, openaiChat, plainChatTurn,
		"A model's answer with 8 calls is read, and what follows in the history is written: the model's own message again, and the answers of the tools, which are texts of 282 bytes. " +
			"The provider's library does so with its types: encoding/json reads the response, ToParam and its message types make what follows, and their MarshalJSON writes each, as in a request. " +
			"Plain structs have the fields that this turn needs and no others: what else the message has is lost. " +
			"Ours gives the model its message as the same bytes, and looks for what the others let pass: keys that stand twice, bytes that are no UTF-8, calls that were cut off."},
	{"openai-go v3", agent.OpenAIResponses, openaiResponses, plainResponsesTurn,
		"The same. The library gives items of the output back as they came, with param.Override, which is what their ToParam does."},
	{"anthropic-sdk-go v2", agent.Anthropic, anthropicMessages, plainAnthropicTurn,
		"The same. The library writes each answer as a list of one text, the others as a text."},
	{"genai", agent.Gemini, geminiContents, plainGeminiTurn,
		"The same. The library's types are read at once: its client first reads a map, and fills them from that."},
}

// turnRows are reading a model's answer and writing the next messages, a row for each format.
func turnRows() (rows []Row) {
	for _, x := range sdks {
		t := newTurn(x.format)
		rows = append(rows, Row{
			Section: "Codecs",
			Name:    turnOf + x.format.String(),
			Note:    x.note,
			Loads:   []Load{alone},
			Contestants: []Contestant{
				{parseRender, Ours, doTurn(t, oursTurn)},
				{x.name, Peer, doTurn(t, x.do)},
				{plainStructs, Floor, doTurn(t, x.plain)},
			},
		})
	}
	return rows
}

// turnMarks hold each format against the provider's library; plain structs are there for comparison.
func turnMarks() (marks []Mark) {
	for _, x := range sdks {
		m := Mark{Row: turnOf + x.format.String(), Load: alone, Ours: parseRender}
		m.What, m.Against = x.format.String()+": time / "+x.name, x.name
		marks = append(marks, m.must(0.5, 0))
		m.What, m.Against = x.format.String()+": time / plain structs, for comparison", plainStructs
		marks = append(marks, m)
	}
	return marks
}
