package main

import (
	"encoding/json"
	"fmt"
)

// script is a conversation as the model holds it.
type script struct {
	question string                          // with which the user begins
	opening  string                          // what the model says to that
	errands  func(malformed string) []errand // what it takes to answer; in malformed a model has got the arguments wrong
	closing  func(results []string) string   // what it says when all is done
}

// errand is something that the model wants to know or to have done.
type errand struct {
	after int      // the errand that has to be done first, from 1; zero means none
	tries []wanted // the next one after it has read that one is wrong; the last may be wrong, too
}

// wanted is a call as the model thinks that it can be made.
type wanted struct {
	tool, args string
	wrong      string // the error with which it has to be told that this is wrong
	again      bool   // it does not mind what it is told, and makes the next try
}

// scriptOf is the script for what the user has said: the trip's, but for the office's question.
func scriptOf(message json.RawMessage) *script {
	var m struct{ Content json.RawMessage }
	var said string
	if json.Unmarshal(message, &m) == nil && json.Unmarshal(m.Content, &said) == nil && said == office.question {
		return &office
	}
	return &trip
}

var trip = script{
	question: "Oslo or Bergen, for two nights? Book a hotel where the weather is better.",
	opening:  "I look at the weather, flights & money.",
	errands: func(malformed string) []errand {
		return []errand{
			{tries: []wanted{{tool: "weather", args: `{"city":"Oslo"}`}}},
			{tries: []wanted{{tool: "weather", args: `{"city":"Bergen"}`}}},
			{tries: []wanted{{tool: "flights", args: `{"to":"Oslo"}`}}},
			{tries: []wanted{
				{tool: "exchange_rates", args: `{"from":"EUR","to":"NOK"}`, wrong: "unknown_tool"},
				{tool: "exchange_rate", args: `{"from":"EUR","to":"NOK"}`},
			}},
			{after: 1, tries: []wanted{
				{tool: "book_hotel", args: malformed, wrong: "invalid_arguments"},
				{tool: "book_hotel", args: `{"city":"Oslo","nights":2}`},
			}},
		}
	},
	closing: func(r []string) string {
		return fmt.Sprintf("Oslo: %s; Bergen: %s. A euro is %s kroner. Your hotel is %s.", r[0], r[1], r[3], r[4])
	},
}

var office = script{
	question: "Pay Ada her 900 euros, note it in the ledger, and archive that. Is there anything else?",
	opening:  "I pay her & note it.",
	errands: func(string) []errand {
		mail := wanted{tool: "mail", args: `{}`, again: true}
		return []errand{
			{tries: []wanted{{tool: "pay", args: `{"to":"Ada","euros":900}`}}},
			{tries: []wanted{{tool: "write", args: `{"file":"ledger","text":"Ada: 900"}`}}},
			{tries: []wanted{{tool: "write", args: `{"file":"ledger","text":"Ada: 900, paid"}`}}},
			{tries: []wanted{{tool: "read", args: `{"file":"ledger"}`}}},
			{after: 1, tries: []wanted{{tool: "archive", args: `{"file":"ledger"}`, wrong: "tool_error"}}},
			{after: 1, tries: []wanted{{tool: "search", args: `{"for":"Ada"}`}}},
			{after: 1, tries: []wanted{mail, mail, mail, {tool: "mail", args: `{}`, wrong: "loop_detected"}}},
			{after: 5, tries: []wanted{{tool: "read", args: `{"file":"ledger"}`}}},
		}
	},
	closing: func(r []string) string {
		return fmt.Sprintf("Ada is %s. The ledger says %q, and is not archived. Letters to her: %s. There is no mail.", r[0], r[7], r[5])
	},
}
